/* The real CUDA module, and the doctor, on machines where it cannot run: no GPU is needed, nor
 * wanted. */
#include "tests/e2e/command.h"

static struct command c;

static void refused(const char *driver, const char *why)
{
    const char *const argv[] = {
        "RINGLETD", "--model", "echo", "--device", "cuda", "--socket", "/proc/nowhere/socket", NULL
    };
    setenv("FAKE_DRIVER", driver, 1);
    assert_int_equal(command_run(&c, NULL, argv), 1);
    if (!strstr(c.errors, why))
        fail_msg("\"%s\" was to be said, not: %s", why, c.errors);
    assert_null(strstr(c.errors, "/nowhere")); /* it did not come so far */
}

TEST(a_driver_that_is_too_old_is_told)
{
    refused("12040", "driver is too old: it supports CUDA 12.4, this build needs 13.0");
    refused("11080", "driver is too old: it supports CUDA 11.8, this build needs 13.0");
}

TEST(a_driver_without_a_gpu_is_told)
{
    refused("13000", "no NVIDIA GPU is visible");
    refused("0", "no NVIDIA driver is loaded");
}

TEST(the_doctor_tells_of_the_driver)
{
    setenv("FAKE_DRIVER", "12040", 1);
    assert_int_equal(ringlet(&c, NULL, "doctor"), 0);
    assert_non_null(
        strstr(c.text, "advice driver       the NVIDIA driver is too old: it supports"));
    setenv("FAKE_DRIVER", "13010", 1);
    assert_int_equal(ringlet(&c, NULL, "doctor"), 0);
    assert_non_null(strstr(c.text, "ok     driver       NVIDIA, for CUDA 13.1"));
}
