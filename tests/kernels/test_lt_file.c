#include "kernels/cuda/lt_file.h"

#include "base/compiler.h"
#include "tests/harness/harness.h"

static struct lt_file file, want;

static struct lt_file_entry entry_of(int n_out, int k, int bucket, int what)
{
    struct lt_file_entry entry = { .key = { n_out, k, bucket, what } };
    memset(entry.algo, n_out ^ k ^ bucket ^ what, sizeof(entry.algo));
    return entry;
}

static void put(int n_out, int k, int bucket, int what)
{
    struct lt_file_entry entry = entry_of(n_out, k, bucket, what);
    uint32_t at = lt_file_find(&file, &entry.key);
    assert_false(lt_file_has(&file, at, &entry.key));
    assert_true(lt_file_insert(&file, at, &entry));
}

/* Five entries, put in another order than theirs. Returns the file's bytes. */
static size_t make(void)
{
    memset(&file, 0, sizeof(file));
    lt_file_init(&want, 130100, "NVIDIA H200");
    lt_file_init(&file, 130100, "NVIDIA H200");
    put(4096, 2048, 16, 0);
    put(4096, 1024, 64, LT_FILE_F16);
    put(1024, 4096, 64, 0);
    put(4096, 1024, 16, LT_FILE_WHAT_MAX);
    put(4096, 1024, 64, LT_FILE_F32_OUT);
    return lt_file_seal(&file);
}

static void refused(size_t n_bytes)
{
    assert_int_equal(lt_file_check(&file, n_bytes, &want.head), -EINVAL);
}

/* Refused though its sum is right. */
static void refused_as_it_is(void)
{
    refused(lt_file_seal(&file));
}

TEST(lt_file_finds_what_was_put)
{
    size_t n_bytes = make();
    assert_int_equal(n_bytes, sizeof(file.head) + 5 * sizeof(file.entry[0]));
    assert_ok(lt_file_check(&file, n_bytes, &want.head));
    const struct lt_file_entry ordered[] = { entry_of(1024, 4096, 64, 0),
                                             entry_of(4096, 1024, 16, LT_FILE_WHAT_MAX),
                                             entry_of(4096, 1024, 64, LT_FILE_F32_OUT),
                                             entry_of(4096, 1024, 64, LT_FILE_F16),
                                             entry_of(4096, 2048, 16, 0) };
    for (uint32_t i = 0; i < ARRAY_SIZE(ordered); i++) {
        assert_memory_equal(&file.entry[i], &ordered[i], sizeof(ordered[i]));
        assert_int_equal(lt_file_find(&file, &ordered[i].key), i);
        assert_true(lt_file_has(&file, i, &ordered[i].key));
    }
    struct lt_key between = { 4096, 1024, 128, 0 }, last = { 4097, 1, 16, 0 };
    assert_int_equal(lt_file_find(&file, &between), 4);
    assert_false(lt_file_has(&file, 4, &between));
    assert_int_equal(lt_file_find(&file, &last), 5);
    assert_false(lt_file_has(&file, 5, &last));
    file.head.n = 0; /* none at all is a file, too */
    assert_ok(lt_file_check(&file, lt_file_seal(&file), &want.head));
    assert_false(lt_file_has(&file, lt_file_find(&file, &last), &last));
}

TEST(lt_file_of_another_kind_is_refused)
{
    size_t n_bytes = make();
    lt_file_init(&want, 130101, "NVIDIA H200");
    refused(n_bytes);
    lt_file_init(&want, 130100, "NVIDIA H100");
    refused(n_bytes);
    lt_file_init(&want, 130100, "NVIDIA H200");
    file.head.magic = 0x31544c52; /* before there was a sum */
    refused_as_it_is();
}

TEST(lt_file_that_was_cut_or_changed_is_refused)
{
    size_t n_bytes = make();
    for (size_t cut = 0; cut < n_bytes; cut++)
        refused(cut);
    refused(n_bytes + 1);
    refused(n_bytes + sizeof(file.entry[0]));
    for (size_t at = 0; at < n_bytes; at++) {
        ((uint8_t *)&file)[at] ^= 0x10;
        refused(n_bytes);
        ((uint8_t *)&file)[at] ^= 0x10;
    }
    assert_ok(lt_file_check(&file, n_bytes, &want.head));
}

TEST(lt_file_counts_within_its_bounds)
{
    make();
    file.head.n = LT_FILE_ENTRIES_MAX + 1;
    refused(sizeof(file.head) + (size_t)file.head.n * sizeof(file.entry[0]));
    file.head.n = UINT32_MAX;
    refused(sizeof(file));
    make();
    file.head.n = LT_FILE_ENTRIES_MAX;
    for (int i = 0; i < LT_FILE_ENTRIES_MAX; i++)
        file.entry[i] = entry_of(1 + i, 64, 16, 0);
    assert_int_equal(lt_file_seal(&file), sizeof(file));
    assert_ok(lt_file_check(&file, sizeof(file), &want.head));
    struct lt_file_entry more = entry_of(LT_FILE_ENTRIES_MAX + 1, 64, 16, 0);
    assert_false(lt_file_insert(&file, LT_FILE_ENTRIES_MAX, &more));
    assert_int_equal(file.head.n, LT_FILE_ENTRIES_MAX);
}

TEST(lt_file_with_keys_that_nobody_makes_is_refused)
{
    const struct lt_key bad[] = { { 0, 64, 16, 0 },   { -1, 64, 16, 0 },        { 64, 0, 16, 0 },
                                  { 64, -64, 16, 0 }, { 64, 64, 8, 0 },         { 64, 64, 48, 0 },
                                  { 64, 64, 0, 0 },   { 64, 64, INT32_MIN, 0 }, { 64, 64, 16, 8 },
                                  { 64, 64, 16, -1 } };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        make();
        file.head.n = 1;
        file.entry[0].key = bad[i];
        refused_as_it_is();
    }
    make();
    file.entry[2] = file.entry[1]; /* twice */
    refused_as_it_is();
    make();
    struct lt_file_entry first = file.entry[0];
    file.entry[0] = file.entry[1]; /* out of order */
    file.entry[1] = first;
    refused_as_it_is();
}

TEST(lt_file_names_are_cut_and_sums_are_fnv)
{
    char name[300];
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = 0;
    lt_file_init(&file, 1, name);
    assert_int_equal(strlen(file.head.device), sizeof(file.head.device) - 1);
    assert_true(lt_file_fnv(UINT64_C(0xcbf29ce484222325), "foobar", 6) ==
                UINT64_C(0x85944171f73967e8));
}
