/* Scope-bound ownership: auto_* frees at the end of the scope, steal_* hands over before it. */
#ifndef RINGLET_BASE_CLEANUP_H
#define RINGLET_BASE_CLEANUP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_fclose(FILE **file)
{
    if (*file)
        fclose(*file);
}

#define auto_close  __attribute__((cleanup(cleanup_close)))
#define auto_free   __attribute__((cleanup(cleanup_free)))
#define auto_fclose __attribute__((cleanup(cleanup_fclose)))

/* Declares the cleanup of a struct with its x_close: auto_call(x_close) struct x *one = NULL; */
#define define_cleanup(type, free_fn)                                                              \
    static inline void cleanup_##free_fn(type **p)                                                 \
    {                                                                                              \
        if (*p)                                                                                    \
            free_fn(*p);                                                                           \
    }
#define auto_call(free_fn) __attribute__((cleanup(cleanup_##free_fn)))

static inline int steal_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define steal_ptr(pp)                                                                              \
    __extension__({                                                                                \
        __auto_type taken_ = *(pp);                                                                \
        *(pp) = NULL;                                                                              \
        taken_;                                                                                    \
    })

#endif
