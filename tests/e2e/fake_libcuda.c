/*
 * A libcuda.so.1 that is there and no more: the real ringlet_cuda.so meets a driver as old as
 * FAKE_DRIVER says (12040 = 12.4), or one without a GPU. The CUDA runtime looks every function up
 * by name first; what is not known here fails when it is called.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CUDA_SUCCESS = 0, CUDA_ERROR_NO_DEVICE = 100, CUDA_ERROR_NOT_SUPPORTED = 801 };

#define exported __attribute__((visibility("default")))

exported int cuDriverGetVersion(int *ret);
exported int cuGetProcAddress(const char *symbol, void **ret, int version, uint64_t flags);
exported int cuGetProcAddress_v2(const char *symbol, void **ret, int version, uint64_t flags,
                                 int *ret_status);

static int init(unsigned flags)
{
    (void)flags;
    return CUDA_ERROR_NO_DEVICE;
}

int cuDriverGetVersion(int *ret)
{
    const char *version = getenv("FAKE_DRIVER");
    *ret = version ? (int)strtol(version, NULL, 10) : 0;
    return CUDA_SUCCESS;
}

static int not_here(void)
{
    return CUDA_ERROR_NOT_SUPPORTED;
}

typedef void (*any_function)(void);

static any_function look_up(const char *symbol)
{
    if (strcmp(symbol, "cuInit") == 0)
        return (any_function)init;
    if (strcmp(symbol, "cuDriverGetVersion") == 0)
        return (any_function)cuDriverGetVersion;
    if (strcmp(symbol, "cuGetProcAddress") == 0)
        return (any_function)cuGetProcAddress_v2;
    return (any_function)not_here;
}

int cuGetProcAddress_v2(const char *symbol, void **ret, int version, uint64_t flags,
                        int *ret_status)
{
    any_function found = look_up(symbol);
    (void)version;
    (void)flags;
    memcpy(ret, &found, sizeof(found));
    if (ret_status)
        *ret_status = 0;
    return CUDA_SUCCESS;
}

int cuGetProcAddress(const char *symbol, void **ret, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, ret, version, flags, NULL);
}
