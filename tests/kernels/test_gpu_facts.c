#include "kernels/cuda/gpu_facts.h"

#include "tests/harness/harness.h"

static const struct gpu_facts good = { .driver = GPU_DRIVER_MIN,
                                       .n_gpu = 2,
                                       .index = 1,
                                       .name = "NVIDIA H200",
                                       .compute = 90,
                                       .has_code = true };

static void refused(const struct gpu_facts *facts, const char *why)
{
    char err[256] = "";
    assert_int_equal(gpu_facts_check(facts, err, sizeof(err)), -ENODEV);
    if (!strstr(err, why))
        fail_msg("\"%s\" was to be said, not: %s", why, err);
}

TEST(gpu_facts_take_what_is_new_enough)
{
    char err[256] = "as it was";
    struct gpu_facts facts = good;
    assert_ok(gpu_facts_check(&facts, err, sizeof(err)));
    facts.compute = GPU_COMPUTE_MIN;
    assert_ok(gpu_facts_check(&facts, err, sizeof(err)));
    facts.name = NULL; /* not asked yet */
    facts.compute = 0;
    facts.has_code = false;
    assert_ok(gpu_facts_check(&facts, err, sizeof(err)));
    assert_string_equal(err, "as it was");
}

TEST(gpu_facts_say_what_is_in_the_way)
{
    struct gpu_facts facts = good;
    facts.driver = 0;
    refused(&facts, "no NVIDIA driver is loaded");
    facts.driver = 12090;
    refused(&facts, "too old: it supports CUDA 12.9, this build needs 13.0");
    facts = good;
    facts.n_gpu = 0;
    refused(&facts, "no NVIDIA GPU is visible: the driver lists none");
    facts.count_error = "because";
    refused(&facts, "no NVIDIA GPU is visible: because");
    facts = good;
    facts.index = 2;
    refused(&facts, "there is no GPU 2: the driver lists 2");
    facts.index = -1;
    refused(&facts, "there is no GPU -1");
    facts = good;
    facts.compute = 75;
    refused(&facts, "NVIDIA H200 is too old: it has compute capability 7.5, at least 8.0");
    facts = good;
    facts.has_code = false;
    refused(&facts, "NVIDIA H200 has compute capability 9.0, which this build has no code for");
}
