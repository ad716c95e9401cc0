#include "daemon/request/request.h"

#include "daemon/base/arena.h"
#include "tests/harness/harness.h"

static struct request_pool *make(struct arena **ret_arena, uint32_t n_request, uint32_t n_sequence)
{
    struct request_pool *pool;
    assert_ok(arena_create(1 << 22, ret_arena));
    assert_ok(request_pool_create(n_request, n_sequence, *ret_arena, &pool));
    return pool;
}

TEST(request_take_brings_its_sequences)
{
    struct arena *arena;
    struct request_pool *pool = make(&arena, 4, 8);
    struct request *request = request_take(pool, 3);
    assert_non_null(request);
    assert_int_equal(request->n_seq, 3);
    assert_int_equal(request->state, REQUEST_ENCODING);
    for (uint32_t i = 0; i < 3; i++) {
        assert_ptr_equal(request->seq[i]->request, request);
        assert_int_equal(request->seq[i]->index, i);
        assert_int_equal(request->seq[i]->state, SEQUENCE_WAITING);
    }
    assert_int_equal(request_pool_sequences_used(pool), 3);
    request_put(pool, request);
    assert_int_equal(request_pool_used(pool), 0);
    assert_int_equal(request_pool_sequences_used(pool), 0);
    arena_free(arena);
}

TEST(request_take_keeps_nothing_when_something_is_used_up)
{
    struct arena *arena;
    struct request_pool *pool = make(&arena, 2, 4);
    assert_null(request_take(pool, 0));
    assert_null(request_take(pool, 5));
    assert_null(request_take(pool, REQUEST_SEQS_MAX + 1));
    assert_int_equal(request_pool_used(pool), 0);
    assert_non_null(request_take(pool, 1));
    assert_non_null(request_take(pool, 1));
    assert_null(request_take(pool, 1)); /* no request left, two sequences are */
    assert_int_equal(request_pool_sequences_used(pool), 2);
    arena_free(arena);
}

TEST(request_handle_goes_stale)
{
    struct arena *arena;
    struct request_pool *pool = make(&arena, 2, 4);
    struct request *request = request_take(pool, 1);
    uint32_t index = request->pool_index, generation = request->pool_generation;
    assert_ptr_equal(request_get(pool, index, generation), request);
    request_put(pool, request);
    assert_null(request_get(pool, index, generation));
    assert_null(request_get(pool, 99, 1));
    arena_free(arena);
}

TEST(sequence_end_counts_once_and_ends_the_request)
{
    struct arena *arena;
    struct request_pool *pool = make(&arena, 2, 4);
    struct request *request = request_take(pool, 2);
    request_to(request, REQUEST_QUEUED);
    request_to(request, REQUEST_RUNNING);
    sequence_to(request->seq[0], SEQUENCE_PREFILL);
    sequence_end(request->seq[0], RINGLET_REASON_STOP_EOS, 7);
    sequence_end(request->seq[0], RINGLET_REASON_CANCELLED, 0);
    assert_int_equal(request->seq[0]->reason, RINGLET_REASON_STOP_EOS);
    assert_int_equal(request->seq[0]->detail, 7);
    assert_int_equal(request->state, REQUEST_RUNNING);
    sequence_end(request->seq[1], RINGLET_REASON_CANCELLED, 0);
    assert_int_equal(request->state, REQUEST_DONE);
    arena_free(arena);
}
