#include "tests/e2e/fault_module.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cuda/gpu_facts.h"
#include "kernels/device.h"

static struct fault_control *control;
static int (*inner_open)(const struct device_options *options, struct device **ret, char *err,
                         size_t err_bytes);

/* As the real module: what the driver tells decides. */
static int open_checked(const struct device_options *options, struct device **ret, char *err,
                        size_t err_bytes)
{
    const struct fault_machine *m = &control->machine;
    const struct gpu_facts facts = { .driver = m->driver,
                                     .n_gpu = m->n_gpu,
                                     .index = options->index,
                                     .name = m->name[0] ? m->name : NULL,
                                     .compute = m->compute,
                                     .has_code = m->has_code };
    int error = m->driver ? gpu_facts_check(&facts, err, err_bytes) : 0;
    return error ? error : inner_open(options, ret, err, err_bytes);
}

/* Looks at the test's wishes every millisecond. */
static void *watch(void *arg)
{
    uint32_t serial = __atomic_load_n(&control->serial, __ATOMIC_ACQUIRE); /* old: another's */
    (void)arg;
    for (;;) {
        uint32_t now = __atomic_load_n(&control->serial, __ATOMIC_ACQUIRE); /* the test's release */
        if (now != serial) {
            fault_arm(&control->plan);
            serial = now;
        }
        __atomic_store_n(&control->calls, fault_calls(), __ATOMIC_RELAXED);
        __atomic_store_n(&control->armed, serial, __ATOMIC_RELEASE); /* the test's acquire */
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    return NULL;
}

__attribute__((visibility("default"))) const struct backend *ringlet_cuda_backend(void);

const struct backend *ringlet_cuda_backend(void)
{
    static struct backend cuda;
    static struct device_ops device;
    const char *path = getenv("RINGLET_FAULT_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    const struct backend *wrapped = fault_backend("cpu");
    if (fd < 0 || !wrapped)
        return NULL;
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (control == MAP_FAILED)
        return NULL;
    cuda = *wrapped;
    cuda.name = "cuda";
    cuda.abi += control->abi_beyond;
    device = *cuda.device;
    inner_open = device.open;
    device.open = open_checked;
    cuda.device = &device;
    fault_arm(&control->at_load);
    pthread_t thread;
    if (pthread_create(&thread, NULL, watch, NULL))
        return NULL;
    pthread_detach(thread);
    return &cuda;
}
