/*
 * Connect, map, reconnect, close. All memory of a client is allocated here: one block for the
 * struct and its arrays, one page that fork wipes, and the three mappings.
 */
#include "client/client_internal.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/planted.h"
#include "shm/handshake.h"

#define PAGE 4096u

static int socket_path(const char *wanted, char ret_path[CLIENT_PATH_BYTES])
{
    const char *dir;
    int n;
    if (!wanted || !*wanted)
        wanted = secure_getenv("RINGLET_SOCKET");
    if (wanted && *wanted)
        n = snprintf(ret_path, CLIENT_PATH_BYTES, "%s", wanted);
    else if ((dir = secure_getenv("XDG_RUNTIME_DIR")) && *dir)
        n = snprintf(ret_path, CLIENT_PATH_BYTES, "%s/ringlet/ringlet.sock", dir);
    else
        n = snprintf(ret_path, CLIENT_PATH_BYTES, "/run/ringlet/ringlet.sock");
    return n >= CLIENT_PATH_BYTES ? -ENAMETOOLONG : 0;
}

static const struct client_link LINK_NONE = {
    .up = { .fd = -1 },
    .down = { .fd = -1 },
    .board = { .fd = -1 },
    .socket_fd = -1,
    .bell_up_fd = -1,
    .bell_down_fd = -1,
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* In a forked child the mappings do not exist: only descriptors are closed there. */
static void link_free(struct client_link *link, bool is_child)
{
    close_fd(&link->socket_fd);
    close_fd(&link->bell_up_fd);
    close_fd(&link->bell_down_fd);
    if (!is_child) {
        region_free(&link->up);
        region_free(&link->down);
        region_free(&link->board);
    }
    *link = LINK_NONE;
}

static int map_board(struct client_link *link, int fd, const struct ringlet_welcome *welcome)
{
    if (welcome->board_bytes < BOARD_BYTES_MIN || welcome->board_bytes % PAGE)
        return -EPROTO;
    int error = region_map(fd, welcome->board_bytes, REGION_BOARD, &link->board);
    if (error < 0)
        return error;
    const struct ringlet_board_head *head = link->board.base;
    if (head->magic != RINGLET_MAGIC_BOARD || head->abi_major != RINGLET_ABI_MAJOR ||
        head->daemon_generation != welcome->daemon_generation)
        return -EPROTO;
    return 0;
}

static int map_rings(struct client_link *link, const int fds[RINGLET_N_FD],
                     const struct ringlet_welcome *welcome, uint32_t n_slot)
{
    int error = layout_from_welcome(welcome, &link->layout);
    if (error < 0)
        return error;
    if (link->layout.n_slot != n_slot)
        return -EPROTO;
    error = region_map(fds[RINGLET_FD_UP], link->layout.up_bytes, REGION_UP, &link->up);
    if (error < 0)
        return error;
    error = region_map(fds[RINGLET_FD_DOWN], link->layout.down_bytes, REGION_DOWN, &link->down);
    if (error < 0)
        return error;
    link->up_parts = layout_up(&link->layout, link->up.base);
    link->down_parts = layout_down(&link->layout, link->down.base);
    link->sq_start = welcome->sq_start;
    link->cq_start = welcome->cq_start;
    return 0;
}

/*
 * A WELCOME sent between our two looks at the clock shows the same clock; else the shift is told.
 */
static int64_t clock_shift(uint64_t before_ns, uint64_t daemon_ns, uint64_t after_ns)
{
    if (daemon_ns >= before_ns && daemon_ns <= after_ns)
        return 0;
    return (int64_t)(daemon_ns - after_ns);
}

static int link_try(const struct ringlet_options *options, const char *path, uint32_t n_slot,
                    uint64_t deadline_ns, struct client_link *ret_link)
{
    struct client_link link = LINK_NONE;
    struct ringlet_welcome welcome;
    int fds[RINGLET_N_FD];
    bool observer = options->flags & RINGLET_OBSERVER;
    uint64_t before_ns = doorbell_now_ns();
    int error = handshake_connect(path, deadline_ns, &link.socket_fd);
    if (error < 0)
        return error;
    struct ringlet_hello hello = { .n_slot = n_slot,
                                   .prompt_bytes = options->prompt_bytes,
                                   .text_bytes = options->text_bytes };
    hello.flags = (observer ? (uint32_t)RINGLET_HELLO_OBSERVER : 0) |
                  (options->flags & RINGLET_LOW_LATENCY ? (uint32_t)RINGLET_HELLO_LOW_LATENCY : 0);
    for (int i = 0; i < RINGLET_N_FD; i++)
        fds[i] = -1;
    error = handshake_send_hello(link.socket_fd, &hello);
    if (error == 0)
        error = handshake_recv_welcome(link.socket_fd, observer, deadline_ns, &welcome, fds);
    if (error == 0) {
        link.clock_shift_ns = clock_shift(before_ns, welcome.now_ns, doorbell_now_ns());
        error = map_board(&link, fds[observer ? 0 : RINGLET_FD_BOARD], &welcome);
    }
    if (error == 0 && !observer) {
        error = map_rings(&link, fds, &welcome, n_slot);
        link.bell_up_fd = steal_fd(&fds[RINGLET_FD_BELL_UP]);
        link.bell_down_fd = steal_fd(&fds[RINGLET_FD_BELL_DOWN]);
    }
    if (error == 0)
        error = handshake_send_attach(link.socket_fd, welcome.session_id);
    for (int i = 0; i < RINGLET_N_FD; i++)
        close_fd(&fds[i]);
    if (error < 0) {
        link_free(&link, false);
        return error;
    }
    *ret_link = link;
    return 0;
}

/*
 * A full daemon (EAGAIN), and one that ended this handshake, be it because others held all its
 * places for too long or because it starts anew (EPIPE): once more, until the deadline.
 */
static int link_open(const struct ringlet_options *options, const char *path, uint32_t n_slot,
                     struct client_link *ret_link)
{
    uint64_t deadline_ns;
    if (add_overflows(doorbell_now_ns(), options->timeout_ns, &deadline_ns))
        deadline_ns = UINT64_MAX;
    for (uint64_t wait_ns = 1000000;; wait_ns = min_of(2 * wait_ns, (uint64_t)50000000)) {
        int error = link_try(options, path, n_slot, deadline_ns, ret_link);
        if ((error != -EAGAIN && error != -EPIPE) || doorbell_now_ns() >= deadline_ns)
            return error;
        doorbell_nap(wait_ns);
    }
}

/* Fresh private cursors for a fresh link. Slots keep their state: open ones were marked lost. */
static void sides_reset(struct ringlet_client *cl)
{
    const struct client_link *link = &cl->link;
    struct ringlet_up_head *up = link->up_parts.head;
    struct ringlet_down_head *down = link->down_parts.head;
    ring_writer_init(&cl->up.sq, link->up_parts.sq, cl->n_slot, link->sq_start);
    span_arena_init(&cl->up.prompt, link->layout.prompt_bytes, cl->prompt_ends, cl->n_slot,
                    link->sq_start);
    wait_watch_init(&cl->up.daemon_watch, &down->daemon_wait);
    cl->up.cancel_seq = 0;
    ring_reader_init(&cl->down.cq, link->down_parts.cq, link->layout.n_cqe, link->cq_start);
    wait_watch_init(&cl->down.credit_watch, &down->credit_wait);
    wait_word_init(&cl->down.wait, &up->client_wait);
    cl->down.head_told = link->cq_start;
    cl->down.untold_bytes = 0;
    cl->down.is_shown = cl->down.is_armed = cl->down.bell_may_wait = false;
}

/* The page that fork wipes: the child then knows that the session is not its own. */
static int make_alive(uint32_t **ret_alive)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return -errno;
    if (madvise(page, PAGE, MADV_WIPEONFORK) < 0) {
        int error = -errno;
        munmap(page, PAGE);
        return error;
    }
    *ret_alive = page;
    **ret_alive = 1;
    return 0;
}

static bool one_cpu(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1;
}

static int check_options(const struct ringlet_options *o)
{
    if (o->struct_size != sizeof(*o) || (o->flags & ~(uint32_t)RINGLET_CONNECT_FLAGS_KNOWN) ||
        o->reserved0 != 0)
        return -EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(o->reserved1); i++)
        if (o->reserved1[i] != 0)
            return -EINVAL;
    if (o->prompt_bytes > RINGLET_PROMPT_BYTES_MAX || o->text_bytes > RINGLET_TEXT_BYTES_MAX)
        return -EINVAL;
    return 0;
}

static struct ringlet_client *client_alloc(uint32_t n_slot)
{
    size_t fixed = align_up(sizeof(struct ringlet_client), CACHE_LINE_PAIR);
    size_t per_slot = sizeof(struct client_slot) + sizeof(uint64_t) + sizeof(uint16_t);
    size_t bytes = align_up(fixed + n_slot * per_slot, CACHE_LINE_PAIR);
    struct ringlet_client *cl = aligned_alloc(CACHE_LINE_PAIR, bytes);
    if (!cl)
        return NULL;
    memset(cl, 0, bytes);
    cl->link = LINK_NONE;
    cl->n_slot = n_slot;
    cl->slots = (struct client_slot *)(void *)((char *)cl + fixed);
    cl->prompt_ends = (uint64_t *)(void *)(cl->slots + n_slot);
    cl->free_slots = (uint16_t *)(void *)(cl->prompt_ends + n_slot);
    for (uint32_t i = 0; i < n_slot; i++)
        cl->free_slots[i] = (uint16_t)i;
    cl->down.free_tail = n_slot;
    pthread_mutex_init(&cl->up.lock, NULL);
    pthread_mutex_init(&cl->down.lock, NULL);
    return cl;
}

api_export int ringlet_connect(const struct ringlet_options *options,
                               struct ringlet_client **ret_cl)
{
    struct ringlet_options o;
    struct layout layout;
    ringlet_options_init(&o);
    if (options && options->struct_size != sizeof(o))
        return -EINVAL;
    if (options)
        o = *options;
    int error = check_options(&o);
    if (error < 0)
        return error;
    o.prompt_bytes = align_up(o.prompt_bytes, PAGE);
    o.text_bytes = align_up(o.text_bytes, PAGE);
    if (layout_compute(o.n_slot, o.prompt_bytes, o.text_bytes, &layout) < 0)
        return -EINVAL;
    if (o.spin_ns != RINGLET_FOREVER && one_cpu())
        o.spin_ns = 0; /* the peer could not run meanwhile */
    struct ringlet_client *cl = client_alloc(layout.n_slot);
    if (!cl)
        return -ENOMEM;
    error = socket_path(o.socket_path, cl->path);
    o.socket_path = NULL;
    cl->options = o;
    if (error == 0)
        error = make_alive(&cl->alive);
    if (error == 0)
        error = link_open(&o, cl->path, cl->n_slot, &cl->link);
    if (error < 0) {
        ringlet_close(cl);
        return error;
    }
    if (!client_is_observer(cl))
        sides_reset(cl);
    *ret_cl = cl;
    return 0;
}

api_export void ringlet_close(struct ringlet_client *cl)
{
    if (!cl)
        return;
    bool is_child = cl->alive && load_once(cl->alive) == 0;
    link_free(&cl->link, is_child);
    if (cl->alive)
        munmap(cl->alive, PAGE);
    if (!is_child) { /* a child may have inherited them locked */
        pthread_mutex_destroy(&cl->up.lock);
        pthread_mutex_destroy(&cl->down.lock);
    }
    free(cl);
}

static int reconnect_locked(struct ringlet_client *cl)
{
    struct client_link link;
    int error = link_open(&cl->options, cl->path, cl->n_slot, &link);
    if (error < 0)
        return error;
    link_free(&cl->link, false);
    cl->link = link;
    if (!client_is_observer(cl)) {
        cl->n_lost = 0;
        for (uint32_t i = 0; i < cl->n_slot && !BUG(267); i++) {
            if (load_once(&cl->slots[i].state) == CLIENT_SLOT_FREE)
                continue;
            store_once(&cl->slots[i].state, CLIENT_SLOT_LOST);
            cl->n_lost++;
        }
        if (!BUG(268))
            sides_reset(cl);
    }
    store_release(&cl->lost, 0); /* pairs with load_acquire in submit and peek */
    return 0;
}

api_export int ringlet_reconnect(struct ringlet_client *cl)
{
    if (load_once(cl->alive) == 0)
        return -ECHILD;
    ringlet_advance(cl); /* a shown event points into the mapping that goes */
    if (client_is_shared(cl)) {
        pthread_mutex_lock(&cl->down.lock);
        pthread_mutex_lock(&cl->up.lock);
    }
    int error = reconnect_locked(cl);
    if (client_is_shared(cl)) {
        pthread_mutex_unlock(&cl->up.lock);
        pthread_mutex_unlock(&cl->down.lock);
    }
    return error;
}
