/*
 * Finds backends by name. The CPU's table is linked in; "cuda" is the module ringlet_cuda.so,
 * looked for beside the executable, then in the build tree beside it, then in the library folder.
 * Start-up only, one thread.
 */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "config.h"
#include "kernels/cpu/cpu.h"
#include "kernels/device.h"
#include "kernels/kernels.h"

#define MODULE "ringlet_cuda.so"

/* Tables and arguments as both sides see them: another size here is another BACKEND_ABI. */
static_assert(BACKEND_ABI == 7, "bumped: the sizes below are told anew");
static_assert(sizeof(struct device_ops) == 208, "bump BACKEND_ABI");
static_assert(sizeof(struct kernel_ops) == 136, "bump BACKEND_ABI");
static_assert(sizeof(struct device_options) + sizeof(struct device_info) +
                      sizeof(struct device_turn) + sizeof(struct device_ceilings) +
                      sizeof(struct op_limits) ==
                  320,
              "bump BACKEND_ABI");
static_assert(sizeof(struct weight) + sizeof(struct kv_layer) + sizeof(struct seq_batch) +
                      sizeof(struct rope) + sizeof(struct embed_args) +
                      sizeof(struct rms_norm_args) + sizeof(struct matmul_args) +
                      sizeof(struct rope_append_args) + sizeof(struct attn_args) +
                      sizeof(struct swiglu_args) + sizeof(struct ffn_in_args) +
                      sizeof(struct attn_in_args) + sizeof(struct logits_args) ==
                  1200,
              "bump BACKEND_ABI");
static_assert(sizeof(struct sample_params) + sizeof(struct sample_out) +
                      sizeof(struct sample_args) + sizeof(struct counts_load_args) +
                      sizeof(struct kv_copy_args) + sizeof(struct kv_move_args) ==
                  456,
              "bump BACKEND_ABI");

static int check_abi(const struct backend *backend, const char *path, char *err, size_t err_bytes)
{
    if (backend->abi == BACKEND_ABI)
        return 0;
    snprintf(err, err_bytes, "%s: made for backend ABI %u, this program has %u; rebuild it", path,
             backend->abi, BACKEND_ABI);
    return -ENOEXEC;
}

static int load_module(const char *path, const struct backend **ret, char *err, size_t err_bytes)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        const char *why = dlerror();
        snprintf(err, err_bytes, "cannot load %s: %s", path, why ? why : "unknown cause");
        return -ENOEXEC;
    }
    const struct backend *(*entry)(void);
    void *symbol = dlsym(module, "ringlet_cuda_backend");
    if (!symbol) {
        snprintf(err, err_bytes, "%s: no symbol ringlet_cuda_backend", path);
        dlclose(module);
        return -ENOEXEC;
    }
    memcpy(&entry, &symbol, sizeof(entry));
    const struct backend *backend = entry();
    if (!backend) {
        snprintf(err, err_bytes, "%s: gives no backend", path);
        return -ENOEXEC;
    }
    int error = check_abi(backend, path, err, err_bytes);
    if (error)
        return error;
    *ret = backend;
    return 0;
}

/* Folder of the running program, without a trailing slash; "" if it cannot be known. */
static void program_folder(char *ret, size_t bytes)
{
    ssize_t n = readlink("/proc/self/exe", ret, bytes - 1);
    ret[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(ret, '/');
    if (slash)
        *slash = '\0';
    else
        ret[0] = '\0';
}

static int find_cuda(const struct backend **ret, char *err, size_t err_bytes)
{
    char folder[PATH_MAX], paths[5][PATH_MAX + 64];

    program_folder(folder, sizeof(folder));
    snprintf(paths[0], sizeof(paths[0]), "%s/" MODULE, folder);
    /* Programs of the build tree lie in daemon/, tools/x/ or tests/x/. */
    snprintf(paths[1], sizeof(paths[1]), "%s/../kernels/cuda/" MODULE, folder);
    snprintf(paths[2], sizeof(paths[2]), "%s/../../kernels/cuda/" MODULE, folder);
    snprintf(paths[3], sizeof(paths[3]), "%s/ringlet/" MODULE, RINGLET_LIBDIR);
    snprintf(paths[4], sizeof(paths[4]), "%s/" MODULE, RINGLET_LIBDIR);
    for (size_t i = folder[0] ? 0 : 3; i < ARRAY_SIZE(paths); i++)
        if (access(paths[i], R_OK) == 0)
            return load_module(paths[i], ret, err, err_bytes);
    snprintf(err, err_bytes,
             "no CUDA backend: " MODULE
             " is neither beside the program nor in %s/ringlet: build it "
             "(meson option cuda; it needs nvcc of CUDA 13)",
             RINGLET_LIBDIR);
    return -ENOENT;
}

int backend_find(const char *name, const struct backend **ret, char *err, size_t err_bytes)
{
    if (strcmp(name, "cpu") == 0) {
        *ret = &cpu_backend;
        return 0;
    }
    if (strcmp(name, "cuda") == 0)
        return find_cuda(ret, err, err_bytes);
    snprintf(err, err_bytes, "no backend is called \"%s\"; there are cpu and cuda", name);
    return -ENOENT;
}
