/*
 * The configuration file: any bytes either are refused with one line that names the file, or give a
 * configuration within its bounds.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];

static void end_file(void)
{
    unlink(path);
}

static void put_file(const uint8_t *data, size_t size)
{
    if (!path[0]) {
        snprintf(path, sizeof(path), "/dev/shm/fuzz-config-XXXXXX");
        int made = mkstemp(path);
        assert(made >= 0);
        close(made);
        atexit(end_file);
    }
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert(fd >= 0);
    assert(write(fd, data, size) == (ssize_t)size);
    close(fd);
}

static void check(const struct config *c)
{
    assert(c->n_model >= 1 && c->n_model <= LIMIT_MODELS);
    assert(c->n_user <= CONFIG_USERS_MAX && c->n_group <= CONFIG_GROUPS_MAX);
    assert(memchr(c->socket, 0, sizeof(c->socket)) && memchr(c->device, 0, sizeof(c->device)));
    for (uint32_t i = 0; i < c->n_model; i++) {
        const struct config_model *m = &c->model[i];
        assert(m->path[0] && memchr(m->path, 0, sizeof(m->path)));
        assert(memchr(m->name, 0, sizeof(m->name)));
        assert(m->options.ctx <= 1 << 24);
    }
    for (uint32_t i = 0; i < c->n_user; i++)
        assert(memchr(c->user[i].name, 0, sizeof(c->user[i].name)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config c;
    char program[] = "ringletd", flag[] = "--config", model_flag[] = "--model", model[] = "echo";
    char err[CONFIG_ERROR_BYTES] = "";
    put_file(data, size);
    char *argv[] = { program, flag, path, model_flag, model, NULL };
    if (config_load(ARRAY_SIZE(argv) - 1, argv, &c, err) < 0) {
        assert(err[0] && memchr(err, 0, sizeof(err)));
        return 0;
    }
    check(&c);
    return 0;
}
