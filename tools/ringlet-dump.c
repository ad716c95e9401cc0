/*
 * ringlet-dump PID: what lies in the rings and counters of a daemon, whatever state it is in. It
 * asks the daemon nothing: the mappings are found in /proc/PID/maps and read from outside, the
 * BOARD through /proc/PID/fd, so it also works on a stuck, stopped or traced process.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "config.h"
#include "ringlet.h"
#include "shm/layout.h"

enum { SESSIONS_MAX = 1024, ENTRIES_SHOWN = 16 };

/* One mapping named ringlet-up:S:PROMPT:TEXT:PEER, ringlet-down:..., as the session names them. */
struct found {
    uint64_t address, bytes;
    unsigned long inode;
    unsigned n_slot, peer;
    unsigned long long prompt_bytes, text_bytes;
    bool up;
};

static struct found found[2 * SESSIONS_MAX];
static size_t n_found;
static uint64_t board_address;
static int64_t pid;
static bool all_entries, all_counters;

static int fail(int status, const char *format, ...) printf_like(2, 3);
static int fail(int status, const char *format, ...)
{
    va_list ap;
    fputs("ringlet-dump: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    return status;
}

static bool peek(uint64_t address, void *to, size_t bytes)
{
    struct iovec local = { to, bytes }, remote = { (void *)(uintptr_t)address, bytes };
    return process_vm_readv((pid_t)pid, &local, 1, &remote, 1, 0) == (ssize_t)bytes;
}

static void take_mapping(const char *line)
{
    unsigned long long from, to;
    unsigned long inode;
    struct found f = { 0 };
    const char *name = strstr(line, "/memfd:ringlet-");
    if (!name || sscanf(line, "%llx-%llx %*s %*s %*s %lu", &from, &to, &inode) != 3)
        return;
    name += strlen("/memfd:ringlet-");
    f.address = from;
    f.bytes = to - from;
    f.inode = inode;
    f.up = strncmp(name, "up", 2) == 0;
    if (strncmp(name, "board", 5) == 0 && !board_address)
        board_address = from;
    else if ((f.up || strncmp(name, "down", 4) == 0) && n_found < ARRAY_SIZE(found) &&
             sscanf(name + (f.up ? 2 : 4), ":%u:%llu:%llu:%u", &f.n_slot, &f.prompt_bytes,
                    &f.text_bytes, &f.peer) == 4)
        found[n_found++] = f;
}

static int by_inode(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return (x->inode > y->inode) - (x->inode < y->inode);
}

static int find_mappings(void)
{
    char path[64], line[512];
    snprintf(path, sizeof(path), "/proc/%" PRId64 "/maps", pid);
    FILE *maps = fopen(path, "re");
    if (!maps)
        return fail(errno == ENOENT ? 3 : 1, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), maps))
        take_mapping(line);
    fclose(maps);
    qsort(found, n_found, sizeof(found[0]), by_inode);
    return 0;
}

/* The BOARD: by its descriptor where there is one (no privilege beyond the same user), else peek.
 */
static bool read_board(uint8_t *board, size_t bytes)
{
    char path[64], target[256];
    for (int fd = 0; fd < 4096; fd++) {
        snprintf(path, sizeof(path), "/proc/%" PRId64 "/fd/%d", pid, fd);
        ssize_t n = readlink(path, target, sizeof(target) - 1);
        if (n <= 0)
            continue;
        target[n] = '\0';
        if (strncmp(target, "/memfd:ringlet-board", 20) != 0)
            continue;
        int board_fd = open(path, O_RDONLY | O_CLOEXEC);
        bool ok = board_fd >= 0 && pread(board_fd, board, bytes, 0) == (ssize_t)bytes;
        if (board_fd >= 0)
            close(board_fd);
        if (ok)
            return true;
    }
    return board_address && peek(board_address, board, bytes);
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* First line of a small file of a thread, without its newline. */
static void thread_line(const char *tid, const char *name, char *text, size_t bytes)
{
    char path[320];
    snprintf(path, sizeof(path), "/proc/%" PRId64 "/task/%s/%s", pid, tid, name);
    FILE *file = fopen(path, "re");
    if (!file || !fgets(text, (int)bytes, file))
        text[0] = '\0';
    if (file)
        fclose(file);
    text[strcspn(text, "\n")] = '\0';
}

/* Each thread: its name, its state and where in the kernel it sleeps. */
static void show_threads(void)
{
    char path[64], name[32], stat[512], wait[64];
    snprintf(path, sizeof(path), "/proc/%" PRId64 "/task", pid);
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        thread_line(entry->d_name, "comm", name, sizeof(name));
        thread_line(entry->d_name, "stat", stat, sizeof(stat));
        thread_line(entry->d_name, "wchan", wait, sizeof(wait));
        const char *state = strrchr(stat, ')');
        printf("thread %-8s %-16s state %c  %s\n", entry->d_name, name,
               state && state[1] ? state[2] : '?', strcmp(wait, "0") == 0 ? "" : wait);
    }
    if (dir)
        closedir(dir);
}

static void show_counters(const uint8_t *board, size_t bytes)
{
    struct ringlet_board_stats head;
    memcpy(&head, board + RINGLET_BOARD_STATS_OFF, sizeof(head));
    for (uint32_t i = 0; i < head.n_stat && i < 4096; i++) {
        struct ringlet_stat stat;
        uint64_t value[2] = { 0 };
        size_t at = RINGLET_BOARD_STATS_OFF + sizeof(head) + (size_t)i * sizeof(stat);
        if (at + sizeof(stat) > bytes)
            break;
        memcpy(&stat, board + at, sizeof(stat));
        size_t n = stat.kind == RINGLET_STAT_HISTOGRAM ? 16 : 8;
        if (stat.value_off > bytes - n)
            continue;
        memcpy(value, board + stat.value_off, n);
        if (value[0] == 0 && !all_counters)
            continue;
        printf("  %-28.40s", stat.name);
        printf(stat.model == RINGLET_STAT_ANY ? "  daemon " : "  model %u", stat.model);
        if (stat.urgency_class != RINGLET_STAT_ANY)
            printf(" class %u", stat.urgency_class);
        if (stat.kind == RINGLET_STAT_HISTOGRAM)
            printf("  n %" PRIu64 " mean %" PRIu64 "\n", value[0],
                   value[0] ? value[1] / value[0] : 0);
        else
            printf("  %" PRIu64 "\n", value[0]);
    }
}

static int show_board(void)
{
    static uint8_t board[RINGLET_BOARD_BYTES];
    struct ringlet_board_head head;
    struct ringlet_board_beat beat;
    if (!read_board(board, sizeof(board)))
        return fail(1, "%" PRId64 ": no BOARD could be read: no ringletd, or no permission", pid);
    memcpy(&head, board, sizeof(head));
    memcpy(&beat, board + RINGLET_BOARD_BEAT_OFF, sizeof(beat));
    if (head.magic != RINGLET_MAGIC_BOARD)
        return fail(1, "%" PRId64 ": its BOARD has magic %08x", pid, head.magic);
    printf("ringletd %.32s, pid %u, ABI %u.%u, generation %016" PRIx64 ", up %.1f s\n",
           head.version, head.pid, head.abi_major, head.abi_minor, head.daemon_generation,
           (double)(now_ns() - head.start_ns) * 1e-9);
    printf("loop: last pass with work %.3f s ago, %" PRIu64 " steps\n",
           beat.heartbeat_ns ? (double)(now_ns() - beat.heartbeat_ns) * 1e-9 : 0.0, beat.steps);
    show_threads();
    for (uint32_t i = 0; i < head.n_model && i < RINGLET_MODELS_MAX; i++) {
        struct ringlet_board_model model;
        memcpy(&model, board + RINGLET_BOARD_MODELS_OFF + i * sizeof(model), sizeof(model));
        printf("model %u: %.64s, state %u, generation %u, context %u%s\n", i, model.name,
               model.state, model.generation, model.context,
               model.lock & 1 ? ", being written" : "");
    }
    printf("counters%s:\n", all_counters ? "" : " that are not 0");
    show_counters(board, sizeof(board));
    return 0;
}

static void show_sqe(const struct ringlet_sqe *e)
{
    printf("    number %u: op %u flags %u slot %u generation %u tag %" PRIu64
           " model %u input %u bytes (kind %u) max_tokens %u\n",
           e->seq - 1, e->op, e->flags, e->slot, e->generation, e->tag, e->model, e->input_bytes,
           e->input_kind, e->max_tokens);
}

static void show_cqe(const struct ringlet_cqe *e)
{
    static const char *const kinds[] = { "?", "ACCEPTED", "TOKENS", "PROMPT", "FINISHED" };
    printf("    number %u: %s flags %u slot %u generation %u tag %" PRIu64
           " index %u position %u tokens %u text %u bytes",
           e->seq - 1, kinds[e->kind < ARRAY_SIZE(kinds) ? e->kind : 0], e->flags, e->slot,
           e->generation, e->tag, e->index, e->position, e->n_token, e->text_bytes);
    if (e->kind == RINGLET_KIND_FINISHED)
        printf(" reason %s", ringlet_reason_name(e->reason));
    putchar('\n');
}

/*
 * The entries from `head` on that are published and not taken. sq: submissions, else completions.
 */
static void show_ring(uint64_t address, uint32_t n_entry, uint32_t head, bool sq)
{
    uint32_t waiting = 0, shown = all_entries ? n_entry : ENTRIES_SHOWN;
    union {
        struct ringlet_sqe sqe;
        struct ringlet_cqe cqe;
    } entry;
    for (; waiting < n_entry; waiting++) {
        uint32_t number = head + waiting;
        if (!peek(address + (uint64_t)(number % n_entry) * sizeof(entry), &entry, sizeof(entry))) {
            printf("    cannot be read: %s\n", strerror(errno));
            return;
        }
        if (entry.sqe.seq != number + 1)
            break;
        if (waiting >= shown)
            continue;
        if (sq)
            show_sqe(&entry.sqe);
        else
            show_cqe(&entry.cqe);
    }
    printf("  %s ring: head %u, %u of %u waiting%s\n", sq ? "submission" : "completion", head,
           waiting, n_entry, waiting > shown ? " (--all shows all)" : "");
}

static void show_session(size_t i, const struct found *up, const struct found *down)
{
    struct layout layout;
    struct ringlet_up_head up_head;
    struct ringlet_down_head down_head;
    printf("session %zu: client pid %u, %u slots, prompt arena %llu, text arena %llu bytes\n", i,
           up->peer, up->n_slot, up->prompt_bytes, up->text_bytes);
    if (layout_compute(up->n_slot, up->prompt_bytes, up->text_bytes, &layout) < 0 ||
        layout.up_bytes != up->bytes || layout.down_bytes != down->bytes) {
        printf("  its regions have another layout than this tool knows\n");
        return;
    }
    if (!peek(up->address, &up_head, sizeof(up_head)) ||
        !peek(down->address, &down_head, sizeof(down_head))) {
        printf("  cannot be read: %s (ptrace permission is needed: be root)\n", strerror(errno));
        return;
    }
    printf("  client %s (epoch %u), daemon %s (epoch %u), credit wait %u, cancels %u, state %u, "
           "error %u\n",
           up_head.client_wait & 1 ? "asleep" : "awake", up_head.client_wait,
           down_head.daemon_wait & 1 ? "wants a bell" : "polls", down_head.daemon_wait,
           down_head.credit_wait, up_head.cancel_seq, down_head.session_state,
           down_head.session_error);
    show_ring(up->address + layout.sq_off, layout.n_slot, down_head.sq_head, true);
    show_ring(down->address + layout.cq_off, layout.n_cqe, up_head.cq_head, false);
}

/* The process that listens on a socket. */
static int pid_of_socket(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct ucred peer;
    socklen_t bytes = sizeof(peer);
    if (strlen(path) >= sizeof(address.sun_path))
        return fail(2, "%s: the path is too long", path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return fail(3, "%s: %s", path, strerror(error));
    }
    close(fd);
    pid = peer.pid;
    return 0;
}

static int parse(int argc, char **argv, const char **ret_socket)
{
    static const struct option table[] = { { "socket", required_argument, NULL, 's' },
                                           { "all", no_argument, NULL, 'a' },
                                           { "help", no_argument, NULL, 'h' },
                                           { "version", no_argument, NULL, 'V' },
                                           { 0 } };
    int option;
    while ((option = getopt_long(argc, argv, "ah", table, NULL)) >= 0) {
        switch (option) {
        case 's':
            *ret_socket = optarg;
            break;
        case 'a':
            all_entries = all_counters = true;
            break;
        case 'h':
            puts("usage: ringlet-dump [--all] PID | --socket PATH\n\nShow the counters, threads, "
                 "sessions and ring entries of a ringletd, from outside:\nit may be stuck or "
                 "stopped. Rings need the right to trace it (root, mostly).\n\n  --all  every "
                 "entry and every counter");
            return 0;
        case 'V':
            puts("ringlet-dump " RINGLET_VERSION);
            return 0;
        default:
            return 2;
        }
    }
    if (optind + 1 == argc && !*ret_socket) {
        char *end;
        pid = strtoll(argv[optind], &end, 10);
        if (*end || pid <= 0 || pid > INT32_MAX || !isdigit((unsigned char)argv[optind][0]))
            return fail(2, "%s: no process id", argv[optind]);
        return -1;
    }
    if (optind == argc && *ret_socket)
        return -1;
    return fail(2, "expected one PID, or --socket PATH (see --help)");
}

int main(int argc, char **argv)
{
    const char *socket_path = NULL;
    int status = parse(argc, argv, &socket_path);
    if (status >= 0)
        return status;
    status = socket_path ? pid_of_socket(socket_path) : 0;
    if (status == 0)
        status = find_mappings();
    if (status == 0)
        status = show_board();
    if (status != 0)
        return status;
    size_t n = 0;
    /* A session's DOWN is made right after its UP. */
    for (size_t i = 0; i + 1 < n_found; i++) {
        if (found[i].up && !found[i + 1].up && found[i].peer == found[i + 1].peer)
            show_session(n++, &found[i], &found[i + 1]);
    }
    printf("%zu sessions\n", n);
    return fflush(stdout) == 0 ? 0 : 1;
}
