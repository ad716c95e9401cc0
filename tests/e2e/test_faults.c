/*
 * A GPU that fails, without a GPU: the daemon runs on a module that wraps the CPU and does wrong
 * when it is told to. Whatever happens, each request ends once, no token comes from a device in
 * error, and the daemon serves again, with the same answers.
 */
#include "tests/e2e/e2e.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "tests/e2e/fault_module.h"

enum { VOCAB = 160, ANSWER = 48, CLIENTS = 3 };

static struct e2e_daemon d;
static struct e2e_answer a;
static struct fault_control *control;
static char folder[256];

static void copy_file(const char *from, const char *to, mode_t mode)
{
    static char buffer[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, mode);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, buffer, sizeof(buffer))) > 0;)
        assert_int_equal(write(out, buffer, (size_t)n), n);
    close(in);
    close(out);
}

/* A checkpoint of random weights: nothing but its shapes, and a word for every id. */
static void write_model(void)
{
    char path[400];
    snprintf(path, sizeof(path), "%s/model", folder);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/model/config.json", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, \"head_dim\": 32, "
            "\"intermediate_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "
            "\"num_key_value_heads\": 1, \"vocab_size\": %d, \"max_position_embeddings\": 2048, "
            "\"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": false, \"dtype\": \"float32\", "
            "\"bos_token_id\": 1, \"eos_token_id\": 2}",
            VOCAB);
    fclose(file);
    snprintf(path, sizeof(path), "%s/model/tokenizer.json", folder);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [], "
          "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
          "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "
          "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
          "true, \"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", "
          "\"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
          "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, "
          "\"ignore_merges\": false, \"vocab\": {",
          file);
    for (int i = 0; i < VOCAB; i++)
        fprintf(file, "%s\"%c%c\": %d", i ? ", " : "", 'a' + i / 26, 'a' + i % 26, i);
    fputs("}, \"merges\": []}}", file);
    fclose(file);
}

/* The daemon's program and the module side by side, as they are installed. */
static void prepare(void)
{
    char path[400];
    const char *program = getenv("RINGLETD"), *module = getenv("FAULT_MODULE");
    if (!program || !module)
        fail_msg("RINGLETD or FAULT_MODULE is not set: run me through meson test");
    snprintf(folder, sizeof(folder), "%s/gpu", harness_tmpdir());
    if (mkdir(folder, 0700) < 0 && errno == EEXIST)
        return; /* the environment is set already */
    snprintf(path, sizeof(path), "%s/ringlet_cuda.so", folder);
    copy_file(module, path, 0700);
    snprintf(path, sizeof(path), "%s/ringletd", folder);
    copy_file(program, path, 0700);
    setenv("RINGLETD", path, 1);
    write_model();
    snprintf(path, sizeof(path), "%s/control", folder);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, sizeof(*control)) == 0);
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(control, MAP_FAILED);
    close(fd);
    setenv("RINGLET_FAULT_CONTROL", path, 1);
}

static void start_with_watchdog(const char *seconds)
{
    char model[300];
    prepare();
    snprintf(model, sizeof(model), "%s/model", folder);
    const char *const args[] = {
        "--model",   model, "--load-format", "dummy", "--device",       "cuda", "--ctx", "512",
        "--threads", "1",   "--watchdog-s",  seconds, "--prefix-cache", "off",  NULL
    };
    e2e_start_with(&d, args);
}

static void start(void)
{
    start_with_watchdog("60");
}

/* From now on the device does this; the n-th call counts from here. */
static void arm(const struct fault_plan *plan)
{
    control->plan = *plan;
    uint32_t serial = __atomic_add_fetch(&control->serial, 1, __ATOMIC_RELEASE);
    for (uint64_t until = e2e_deadline_ns();
         __atomic_load_n(&control->armed, __ATOMIC_ACQUIRE) != serial;)
        assert_true(e2e_may_wait(until));
}

static struct ringlet_request request(uint32_t which)
{
    static uint32_t prompts[CLIENTS][20];
    struct ringlet_request req;
    ringlet_request_init(&req);
    for (uint32_t i = 0; i < 20; i++)
        prompts[which][i] = 3 + (i * 7 + which * 31) % (VOCAB - 3);
    req.tokens = prompts[which];
    req.n_token = 20;
    req.temperature = 0;
    req.max_tokens = ANSWER;
    req.options = RINGLET_BLOCK_IGNORE_EOS;
    return req;
}

/* What the model says when nothing is wrong. */
static void ask_well(struct ringlet_client *cl, uint32_t tokens[ANSWER])
{
    struct ringlet_request req = request(0);
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_LENGTH);
    assert_int_equal(a.n_token, ANSWER);
    memcpy(tokens, a.tokens, ANSWER * sizeof(*tokens));
}

/* The same, and about how many calls of the device that takes: a fault before comes in time. */
static int ask_alone(uint32_t well[ANSWER])
{
    struct ringlet_client *cl = e2e_connect(&d);
    arm(&(struct fault_plan){ 0 });
    ask_well(cl, well);
    ringlet_close(cl);
    /* The module tells it now and then: until nothing is added any more. */
    int n_call = 0, before;
    uint64_t until = e2e_deadline_ns();
    do {
        assert_true(e2e_may_wait(until));
        before = n_call;
        e2e_nap_ms(20);
        n_call = __atomic_load_n(&control->calls, __ATOMIC_RELAXED);
    } while (n_call <= ANSWER || n_call != before);
    return n_call;
}

static void reconnect(struct ringlet_client *cl)
{
    for (uint64_t until = e2e_deadline_ns(); ringlet_reconnect(cl) < 0;)
        assert_true(e2e_may_wait(until));
}

/*
 * Requests run while the device goes wrong: all that had not ended end with error_engine, what came
 * before is a beginning of the right answer, and the same process serves again.
 */
static void survive(const struct fault_plan *plan, const uint32_t well[ANSWER])
{
    struct ringlet_client *cl[CLIENTS];
    struct ringlet_stats_info before, after;
    uint64_t id[CLIENTS];
    uint32_t again[ANSWER];
    for (uint32_t i = 0; i < CLIENTS; i++)
        cl[i] = e2e_connect(&d);
    assert_ok(ringlet_stats(cl[0], &before));
    arm(plan);
    e2e_pause(&d); /* all ask before anything goes wrong */
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct ringlet_request req = request(i);
        assert_ok(ringlet_submit(cl[i], &req, &id[i]));
    }
    e2e_resume(&d);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        e2e_gather(cl[i], id[i], &a);
        assert_int_equal(a.reason, RINGLET_REASON_ERROR_ENGINE);
        assert_int_equal(a.n_finished, 1);
        if (i == 0)
            assert_memory_equal(a.tokens, well, a.n_token * sizeof(*well));
    }
    for (uint32_t i = 0; i < CLIENTS; i++)
        reconnect(cl[i]);
    ask_well(cl[0], again);
    assert_memory_equal(again, well, sizeof(again));
    assert_ok(ringlet_stats(cl[0], &after));
    assert_int_equal(after.pid, before.pid);
    assert_int_not_equal(after.daemon_generation, before.daemon_generation);
    e2e_audit(cl[0], 0);
    for (uint32_t i = 0; i < CLIENTS; i++)
        ringlet_close(cl[i]);
}

TEST(a_sticky_fault_ends_requests_and_the_daemon_serves_again)
{
    uint32_t well[ANSWER];
    start();
    int n_call = ask_alone(well);
    const int calls[] = { 1, n_call / 3,
                          n_call * 2 / 3 }; /* in the prefill, and while it decodes */
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
        survive(&(struct fault_plan){ .fail_at = calls[i], .fail_rc = -EIO }, well);
        if (i == 1) { /* three in a row would be one too many: a daemon that gives up */
            e2e_stop(&d);
            start();
        }
    }
    e2e_stop(&d);
}

TEST(a_device_that_always_fails_is_given_up)
{
    enum { STARTS = 4 }; /* the first, and three anew */
    start();
    struct ringlet_client *cl = e2e_connect(&d);
    for (int i = 1; i <= STARTS; i++) {
        uint64_t id;
        struct ringlet_request req = request(0);
        arm(&(struct fault_plan){ .fail_at = 1, .fail_rc = -EIO });
        assert_ok(ringlet_submit(cl, &req, &id));
        e2e_gather(cl, id, &a);
        assert_int_equal(a.reason, RINGLET_REASON_ERROR_ENGINE);
        assert_int_equal(a.n_token, 0);
        if (i < STARTS)
            reconnect(cl);
    }
    int status = e2e_wait(&d);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_true(e2e_log_says(&d, "the device failed 4 times in a row; giving up"));
    assert_true(ringlet_reconnect(cl) < 0); /* nobody listens, nothing lies at the path */
    assert_int_not_equal(access(d.socket, F_OK), 0);
    ringlet_close(cl);
}

TEST(a_device_that_hangs_is_given_up_by_the_watchdog)
{
    uint32_t well[ANSWER];
    start_with_watchdog("3");
    int n_call = ask_alone(well);
    survive(&(struct fault_plan){ .fail_at = n_call * 2 / 3, .hang = true }, well);
    e2e_stop(&d);
}

TEST(a_device_short_of_memory_is_asked_for_less)
{
    uint32_t well[ANSWER], again[ANSWER];
    struct ringlet_stats_info before, after;
    start();
    assert_true(e2e_log_says(&d, " MB, all else "));
    struct ringlet_client *cl = e2e_connect(&d);
    ask_well(cl, well);
    assert_ok(ringlet_stats(cl, &before));
    arm(&(struct fault_plan){ .fail_at = 300, .fail_rc = -ENOMEM });
    struct ringlet_request req = request(0);
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_ERROR_ENGINE);
    assert_true(a.n_token > 0 && a.n_token < ANSWER);
    assert_memory_equal(a.tokens, well, a.n_token * sizeof(*well));
    ask_well(cl, again); /* the same daemon goes on */
    assert_memory_equal(again, well, sizeof(again));
    assert_ok(ringlet_stats(cl, &after));
    assert_int_equal(after.daemon_generation, before.daemon_generation);
    assert_true(e2e_log_says(&d, "out of memory: 128 sequences at once"));
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(logits_that_are_not_finite_draw_no_token)
{
    uint32_t well[ANSWER], again[ANSWER];
    start();
    struct ringlet_client *cl = e2e_connect(&d);
    ask_well(cl, well);
    arm(&(struct fault_plan){ .nan_logits = true });
    struct ringlet_request req = request(0);
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_ERROR_ENGINE);
    assert_int_equal(a.n_token, 0);
    req.prompt_logprobs = 1; /* a score of such logits would be a lie, too */
    req.max_tokens = 0;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_ERROR_ENGINE);
    arm(&(struct fault_plan){ 0 });
    ask_well(cl, again); /* the daemon went on: only that request is lost */
    assert_memory_equal(again, well, sizeof(again));
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

/* A start that cannot succeed: its exit status, and the last lines of what was said. */
static int start_that_fails(const char *device, char *text, size_t bytes)
{
    char model[300], log[300];
    snprintf(model, sizeof(model), "%s/model", folder);
    snprintf(log, sizeof(log), "%s/log", folder);
    pid_t pid = fork();
    if (pid == 0) {
        int fd = open(log, O_CREAT | O_WRONLY | O_TRUNC, 0600);
        dup2(fd, STDERR_FILENO);
        execl(getenv("RINGLETD"), "ringletd", "--model", model, "--load-format", "dummy",
              "--device", device, "--ctx", "512", "--socket", "/proc/nowhere/socket", (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    int fd = open(log, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, bytes - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(out_of_memory_at_load_is_told_with_the_sums)
{
    static const char *const whats[] = { "MB of weights", "MB of buffers", "MB of KV cache",
                                         "scratch of 2048 rows" };
    char text[4096];
    bool said[4] = { false };
    prepare();
    bool is_past = false;
    for (int call = 1; call < 400 && !is_past; call++) {
        control->at_load = (struct fault_plan){ .fail_at = call, .fail_rc = -ENOMEM };
        int status = start_that_fails("cuda", text, sizeof(text));
        control->at_load = (struct fault_plan){ 0 };
        assert_int_equal(status, 1);
        is_past = strstr(text, "/nowhere"); /* past the load: only the socket failed */
        if (is_past)
            break;
        if (!strstr(text, "ringletd: ") || !strstr(text, "MB are free"))
            fail_msg("call %d failed and nobody said why, with the sums: %s", call, text);
        for (int i = 0; i < 4; i++)
            said[i] |= strstr(text, whats[i]) != NULL;
    }
    assert_true(is_past && said[0] && said[1] && said[2] && said[3]);
}

/* That machine is refused, by name and with what it lacks; without --device the CPU serves. */
static void refuse(const struct fault_machine *machine, const char *device, const char *why)
{
    char text[4096];
    control->machine = *machine;
    assert_int_equal(start_that_fails(device, text, sizeof(text)), 1);
    if (!strstr(text, why) || strstr(text, "/nowhere"))
        fail_msg("\"%s\" was to be said, not: %s", why, text);
    start_that_fails("auto", text, sizeof(text));
    if (!strstr(text, "/nowhere")) /* past the load: only the socket failed */
        fail_msg("no start on the CPU: %s", text);
    if (strcmp(device, "cuda") == 0 && !strstr(text, why))
        fail_msg("nobody said why on the CPU: %s", text);
    control->machine = (struct fault_machine){ 0 };
}

TEST(a_machine_that_is_too_old_is_refused_in_words)
{
    prepare();
    refuse(&(struct fault_machine){ .driver = 12040, .n_gpu = 1 }, "cuda",
           "driver is too old: it supports CUDA 12.4, this build needs 13.0");
    refuse(&(struct fault_machine){ .driver = 13000 }, "cuda", "no NVIDIA GPU is visible");
    refuse(&(struct fault_machine){ .driver = 13000, .n_gpu = 2 }, "cuda:2",
           "there is no GPU 2: the driver lists 2");
    refuse(
        &(struct fault_machine){
            .driver = 13000, .n_gpu = 1, .name = "Tesla V100", .compute = 70, .has_code = true },
        "cuda", "Tesla V100 is too old: it has compute capability 7.0, at least 8.0");
    refuse(
        &(struct fault_machine){ .driver = 13010, .n_gpu = 1, .name = "NVIDIA L4", .compute = 89 },
        "cuda", "NVIDIA L4 has compute capability 8.9, which this build has no code for");
}

/* What lies at the module's place cannot be used: that is said, and without --device the CPU
 * serves. */
static void refuse_module(const char *why)
{
    char text[4096];
    assert_int_equal(start_that_fails("cuda", text, sizeof(text)), 1);
    if (!strstr(text, why) || !strstr(text, "ringletd: device cuda: "))
        fail_msg("\"%s\" was to be said, not: %s", why, text);
    start_that_fails("auto", text, sizeof(text));
    if (!strstr(text, "/nowhere") || !strstr(text, "models run on the CPU: device cuda: "))
        fail_msg("no start on the CPU, or nobody said why: %s", text);
}

TEST(a_module_that_cannot_be_used_is_told)
{
    Dl_info library;
    char path[400], text[4096];
    prepare();
    snprintf(path, sizeof(path), "%s/ringlet_cuda.so", folder);
    control->abi_beyond = 1;
    refuse_module("this program has");
    control->abi_beyond = 0;
    unsetenv("RINGLET_FAULT_CONTROL");
    refuse_module("gives no backend");
    assert_int_not_equal(dladdr(dlsym(RTLD_DEFAULT, "_assert_true"), &library), 0);
    copy_file(library.dli_fname, path, 0700);
    refuse_module("no symbol ringlet_cuda_backend");
    copy_file("/proc/self/status", path, 0700);
    refuse_module("cannot load");
    assert_ok(unlink(path));
    if (access(RINGLET_LIBDIR "/ringlet/ringlet_cuda.so", F_OK) != 0) { /* none is installed */
        assert_int_equal(start_that_fails("cuda", text, sizeof(text)), 1);
        assert_non_null(strstr(text, "no CUDA backend: ringlet_cuda.so is neither"));
        start_that_fails("auto", text, sizeof(text)); /* not built for a GPU: nothing to say */
        assert_non_null(strstr(text, "/nowhere"));
        assert_null(strstr(text, "cuda"));
    }
    copy_file(getenv("FAULT_MODULE"), path, 0700);
    snprintf(path, sizeof(path), "%s/control", folder);
    setenv("RINGLET_FAULT_CONTROL", path, 1);
}

TEST(echo_is_served_by_the_cpu_of_a_machine_with_a_gpu)
{
    prepare();
    e2e_start(&d, (const char *const[]){ NULL });
    assert_true(e2e_log_says(&d, "ready on"));
    assert_true(e2e_log_says(&d, ", cpu "));
    e2e_stop(&d);
}
