/*
 * Runs a fuzz target without libFuzzer: every file of a folder as it stands, then mutations of
 * them (bytes flipped, pieces cut, doubled or taken from another seed, and what the target's own
 * mutator does, if it has one) for FUZZ_SECONDS, default 3, or 300 in run-tests --long. FUZZ_SEED
 * repeats a run; the bytes of a failing input are left in fuzz-failed.bin.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"

#define SEEDS_MAX 512
#define BYTES_MAX (1u << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                                                     unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

struct seed {
    uint8_t *data;
    size_t bytes;
};

static struct seed seeds[SEEDS_MAX];
static size_t n_seed;
static uint64_t state;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static void load(const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = name[0] == '.' || n_seed == SEEDS_MAX ? NULL : fopen(path, "rb");
    if (!file)
        return;
    uint8_t *data = malloc(BYTES_MAX);
    size_t bytes = data ? fread(data, 1, BYTES_MAX, file) : 0;
    fclose(file);
    if (data)
        seeds[n_seed++] = (struct seed){ data, bytes };
}

static size_t mutate_bytes(uint8_t *to, size_t n, size_t max)
{
    const struct seed *b = &seeds[draw(n_seed)];
    for (uint64_t k = 1 + draw(4); k > 0 && n > 0; k--) {
        size_t at = draw(n), span = 1 + draw(min_of(n - at, (size_t)64));
        switch (draw(5)) {
        case 0:
            to[at] ^= (uint8_t)(1u << draw(8));
            break;
        case 1:
            to[at] = (uint8_t)draw(256);
            break;
        case 2:
            memmove(to + at, to + at + span, n - at - span);
            n -= span;
            break;
        case 3:
            if (n + span <= max) {
                memmove(to + at + span, to + at, n - at);
                n += span;
            }
            break;
        default:
            if (b->bytes > 0) {
                size_t from = draw(b->bytes);
                memcpy(to + at, b->data + from, min_of(span, b->bytes - from));
            }
        }
    }
    return n;
}

/* For a target's own mutator, in libFuzzer's place. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    return mutate_bytes(data, size, max_size);
}

static size_t mutate(uint8_t *to)
{
    const struct seed *a = &seeds[draw(n_seed)];
    size_t n = a->bytes;
    memcpy(to, a->data, n);
    if (!LLVMFuzzerCustomMutator)
        return mutate_bytes(to, n, BYTES_MAX);
    for (uint64_t k = 1 + draw(8); k > 0; k--)
        n = LLVMFuzzerCustomMutator(to, n, BYTES_MAX, (unsigned)draw(UINT32_MAX));
    return n;
}

/* Written before the call, so that a crash leaves its input behind. */
static void run(const uint8_t *data, size_t bytes, int fd)
{
    if (fd >= 0 && (ftruncate(fd, 0) < 0 || pwrite(fd, data, bytes, 0) < 0))
        perror("fuzz-failed.bin");
    /* A copy of its own, so that a sanitizer sees reads past the end. */
    uint8_t *copy = malloc(bytes ? bytes : 1);
    if (!copy)
        return;
    memcpy(copy, data, bytes);
    LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
}

int main(int argc, char **argv)
{
    const char *seconds = getenv("FUZZ_SECONDS"), *seed = getenv("FUZZ_SEED");
    const char *longer = getenv("RINGLET_TEST_LONG");
    struct dirent *entry;
    DIR *dir = argc > 1 ? opendir(argv[1]) : NULL;
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    while (dir && (entry = readdir(dir)))
        load(argv[1], entry->d_name);
    if (dir)
        closedir(dir);
    if (n_seed == 0) {
        fprintf(stderr, "%s FOLDER: no seeds\n", argv[0]);
        return 2;
    }
    state = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL) * 2654435761u;
    state |= 1;
    printf("FUZZ_SEED=%llu\n", (unsigned long long)state);
    fflush(stdout);
    int fd = open("fuzz-failed.bin", O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    for (size_t i = 0; i < n_seed; i++)
        run(seeds[i].data, seeds[i].bytes, fd);
    static uint8_t data[BYTES_MAX];
    uint64_t n_run = n_seed;
    long usual = longer && strcmp(longer, "1") == 0 ? 300 : 3;
    time_t end = time(NULL) + (seconds ? strtol(seconds, NULL, 10) : usual);
    for (; time(NULL) < end; n_run++)
        run(data, mutate(data), fd);
    if (fd >= 0)
        close(fd);
    unlink("fuzz-failed.bin");
    printf("%llu inputs\ntests: 1 passed, 0 failed, 0 skipped\n", (unsigned long long)n_run);
    return 0;
}
