/* The files that a report becomes: JSON, CSV, the page; and `report`, which reads JSON again. */
#include "tools/ringbench/bench.h"

#include <unistd.h>

#include <jansson.h>

#include "tests/harness/harness.h"
#include "tools/ringbench/html.h"

static char json_path[200], csv_path[200], html_path[200];

static char *slurp(const char *path)
{
    static char text[1 << 20];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[n] = 0;
    return text;
}

static void add_latency(struct bench_report *report, const char *subject, uint64_t scale_ns, int n)
{
    struct bench_samples samples = { 0 };
    for (int i = 1; i <= n; i++)
        bench_samples_add(&samples, scale_ns * (uint64_t)i);
    bench_result_runs(bench_report_add(report, "ttft", subject), &samples, 1);
    bench_samples_free(&samples);
}

static void make(struct bench_report *report)
{
    *report = (struct bench_report){ .bench = "serve", .command = "ringbench serve --x '<&>'" };
    add_latency(report, "ringlet", 1000, 5000);
    add_latency(report, "--log \"a\",b <c>", 70000, 20);
    struct bench_result *r = bench_report_add(report, "gain", "ringlet");
    bench_value_set(r, "gain", 4.5);
    bench_value_set(r, "gain_allowed", 5.0);
    snprintf(r->note, sizeof(r->note), "few-shot, over '<off>'");
    snprintf(r->dtype, sizeof(r->dtype), "f16");
}

static void write_all(struct bench_report *report)
{
    struct bench_options options = { 0 };
    const char *folder = harness_tmpdir();
    snprintf(json_path, sizeof(json_path), "%s/r.json", folder);
    snprintf(csv_path, sizeof(csv_path), "%s/r.csv", folder);
    snprintf(html_path, sizeof(html_path), "%s/r.html", folder);
    options.json_path = json_path;
    options.csv_path = csv_path;
    options.html_path = html_path;
    assert_ok(bench_report_write(report, &options));
}

TEST(report_json_is_json_whatever_the_subject_is_called)
{
    struct bench_report report;
    make(&report);
    write_all(&report);
    json_t *root = json_load_file(json_path, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    json_t *results = json_object_get(root, "results"), *second = json_array_get(results, 1);
    assert_int_equal(json_array_size(results), 3);
    assert_string_equal(json_string_value(json_object_get(second, "subject")), "--log \"a\",b <c>");
    assert_int_equal(json_integer_value(json_object_get(second, "n")), 20);
    assert_int_equal(json_array_size(json_object_get(second, "curve_ns")), BENCH_QUANTILES);
    json_t *third = json_array_get(results, 2);
    assert_close(json_number_value(json_object_get(third, "gain")), 4.5, 0, 0);
    assert_string_equal(json_string_value(json_object_get(third, "dtype")), "f16");
    json_decref(root);
    bench_report_free(&report);
}

TEST(report_csv_quotes_what_has_commas)
{
    struct bench_report report;
    make(&report);
    write_all(&report);
    const char *text = slurp(csv_path);
    assert_non_null(strstr(text, "serve,ttft,\"--log \"\"a\"\",b <c>\",20,"));
    assert_non_null(strstr(text, "gain=4.5;gain_allowed=5\n"));
    bench_report_free(&report);
}

/* Numbers behind every occurrence of a key lie in a range. */
static int count_in_range(const char *text, const char *key, double lo, double hi)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, key)); n++) {
        at += strlen(key);
        double value = strtod(at, NULL);
        if (!(value >= lo && value <= hi))
            fail_msg("%s%g is outside of [%g, %g]", key, value, lo, hi);
    }
    return n;
}

TEST(report_page_is_self_contained_and_escaped_and_draws_inside_its_frame)
{
    struct bench_report report;
    make(&report);
    write_all(&report);
    const char *text = slurp(html_path);
    assert_null(strstr(text, "<c>"));
    assert_null(strstr(text, "<off>"));
    assert_non_null(strstr(text, "&lt;c&gt;"));
    assert_non_null(strstr(text, "ringbench serve --x &#39;&lt;&amp;&gt;&#39;"));
    assert_null(strstr(text, "http://"));
    assert_null(strstr(text, "https://"));
    assert_null(strstr(text, "<script"));
    assert_non_null(strstr(text, "prefers-color-scheme:dark"));
    assert_non_null(strstr(text, "Time to first token"));
    assert_true(count_in_range(text, " cx='", 0, 960) >= 4);
    assert_true(count_in_range(text, " cy='", 0, 340) >= 4);
    assert_true(count_in_range(text, " x1='", 0, 960) > 6);
    /* each curve ends with its samples: 20 of them reach 95 %, not the right end */
    double last[2] = { 0 };
    int n = 0;
    for (const char *at = text; (at = strstr(at, "class='dot' cx='")) && n < 2; n++) {
        at += 16;
        last[n] = strtod(at, NULL);
    }
    assert_true(last[0] != last[1]);
    int open = 0;
    for (const char *at = text; (at = strstr(at, "<svg")); at++)
        open++;
    for (const char *at = text; (at = strstr(at, "</svg>")); at++)
        open--;
    assert_int_equal(open, 0);
    bench_report_free(&report);
}

TEST(report_reads_its_own_json_again_with_curves_notes_and_origin)
{
    struct bench_report report;
    make(&report);
    write_all(&report);
    bench_report_free(&report);
    char again[200], twice[210];
    snprintf(again, sizeof(again), "%s", json_path);
    struct bench_options options = { .html_path = html_path, .json_path = twice };
    snprintf(twice, sizeof(twice), "%s.2", json_path);
    char *argv[] = { (char *)"report", again, NULL };
    assert_int_equal(bench_report_main(2, argv, &options), 0);
    json_t *one = json_load_file(again, 0, NULL), *two = json_load_file(twice, 0, NULL);
    assert_non_null(two);
    assert_true(json_equal(json_object_get(one, "results"), json_object_get(two, "results")));
    json_decref(one);
    json_decref(two);
    assert_non_null(strstr(slurp(html_path), "<h3>r.json</h3>"));
    /* not JSON, no results */
    FILE *file = fopen(again, "w");
    fputs("{\"results\":3}", file);
    fclose(file);
    assert_int_equal(bench_report_main(2, argv, &options), 1);
    unlink(again);
    assert_int_equal(bench_report_main(2, argv, &options), 1);
}

TEST(report_labels_files_by_where_their_names_differ)
{
    struct bench_report report;
    char one[220], two[220];
    make(&report);
    write_all(&report);
    bench_report_free(&report);
    snprintf(one, sizeof(one), "%.100s-a-long-name-of-a-machine-few-shot.json", json_path);
    snprintf(two, sizeof(two), "%.100s-a-long-name-of-a-machine-tree.json", json_path);
    assert_ok(link(json_path, one));
    assert_ok(link(json_path, two));
    struct bench_options options = { .html_path = html_path };
    char *argv[] = { (char *)"report", one, two, NULL };
    assert_int_equal(bench_report_main(3, argv, &options), 0);
    assert_non_null(strstr(slurp(html_path), "<td>ringlet (few-shot)</td>"));
    assert_non_null(strstr(slurp(html_path), "<td>ringlet (tree)</td>"));
    char *same[] = { (char *)"report", one, one, NULL };
    assert_int_equal(bench_report_main(3, same, &options), 0);
    assert_non_null(strstr(slurp(html_path), "<td>ringlet (2)</td>"));
}

TEST(a_subject_has_one_colour_and_ringlet_the_first)
{
    struct bench_report report = { .bench = "rings" };
    bench_report_add(&report, "round_trip", "cache_line");
    bench_report_add(&report, "round_trip", "spsc");
    bench_report_add(&report, "round_trip", "ringlet");
    bench_report_add(&report, "throughput", "spsc");
    bench_report_add(&report, "throughput", "tcp");
    assert_int_equal(html_colour(&report, "ringlet"), 0);
    assert_int_equal(html_colour(&report, "cache_line"), 1);
    assert_int_equal(html_colour(&report, "spsc"), 2);
    assert_int_equal(html_colour(&report, "tcp"), 3);
    char subject[16];
    for (int i = 0; i < 2 * HTML_COLOURS; i++) { /* ours stays ours, however many there are */
        snprintf(subject, sizeof(subject), "subject %d", i);
        bench_report_add(&report, "round_trip", subject);
        int colour = html_colour(&report, subject);
        assert_in_range(colour, 1, HTML_COLOURS - 1);
        if (i < HTML_COLOURS - 4)
            assert_int_equal(colour, 4 + i);
    }
    bench_report_free(&report);
}

TEST(numbers_are_told_with_three_digits)
{
    static const struct {
        double value;
        const char *number, *ns;
    } cases[] = { { 5, "5", "5 ns" },
                  { 999.6, "1000", "1.00 µs" },
                  { 1234, "1234", "1.23 µs" },
                  { 99960, "99960", "100 µs" },
                  { 123456.5, "123 k", "123 µs" },
                  { 9.996e6, "10.0 M", "10.0 ms" },
                  { 1.5e9, "1.50 G", "1.50 s" } };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[32];
        html_number(cases[i].value, text, sizeof(text));
        assert_string_equal(text, cases[i].number);
        html_ns(cases[i].value, text, sizeof(text));
        assert_string_equal(text, cases[i].ns);
    }
}
