/* Places may be empty, since texts are taken back by their nodes: whoever meets one drops it. */
#include "daemon/encode_turns.h"

#include "base/assert.h"
#include "daemon/base/limits.h"

void encode_turns_init(struct encode_turns *t)
{
    *t = (struct encode_turns){ 0 };
    list_init(&t->users);
}

void encode_place_init(struct encode_place *place)
{
    list_init(&place->node);
    list_init(&place->waiting);
}

void encode_turns_add(struct encode_turns *t, struct encode_place *user,
                      struct encode_place *session, struct list *text)
{
    list_push_back(&session->waiting, text);
    if (list_empty(&session->node))
        list_push_back(&user->waiting, &session->node);
    if (list_empty(&user->node))
        list_push_back(&t->users, &user->node);
}

/* The next text of this user; its session goes behind the others if it has more. */
static struct list *next_of(struct encode_place *user)
{
    while (!list_empty(&user->waiting)) {
        struct encode_place *session = list_first(&user->waiting, struct encode_place, node);
        list_remove(&session->node);
        if (list_empty(&session->waiting))
            continue;
        struct list *text = session->waiting.next;
        list_remove(text);
        if (!list_empty(&session->waiting))
            list_push_back(&user->waiting, &session->node);
        return text;
    }
    return NULL;
}

struct list *encode_turns_next(struct encode_turns *t)
{
    if (t->n_out >= LIMIT_ENCODING || t->bytes_out >= LIMIT_ENCODING_BYTES)
        return NULL;
    while (!list_empty(&t->users)) {
        struct encode_place *user = list_first(&t->users, struct encode_place, node);
        list_remove(&user->node);
        struct list *text = next_of(user);
        if (!list_empty(&user->waiting))
            list_push_back(&t->users, &user->node);
        if (text)
            return text;
    }
    return NULL;
}

void encode_turns_out(struct encode_turns *t, uint64_t bytes)
{
    t->n_out++;
    t->bytes_out += bytes;
}

void encode_turns_back(struct encode_turns *t, uint64_t bytes)
{
    assert(t->n_out > 0 && t->bytes_out >= bytes);
    t->n_out--;
    t->bytes_out -= bytes;
}

void encode_turns_leave(struct encode_place *session)
{
    assert(list_empty(&session->waiting));
    list_remove(&session->node);
}
