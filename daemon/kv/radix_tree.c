/*
 * Owns the nodes. Links are indices; 0 is the super root and, as a link, "none".
 *
 * Invariants, checked by radix_tree_consistent:
 *   - no sibling's tokens are a prefix of another's; partial nodes have no children
 *   - a node has a device block or a host block; ancestors of device nodes are device nodes
 *   - in each of the two use lists a node lies before all its descendants, so the last is a leaf
 *     (of its kind): touching a path moves its nodes to the front from the leaf up
 */
#include "daemon/kv/radix_tree.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/arena.h"
#include "daemon/base/prng.h"
#include "daemon/kv/block_pool.h"

enum { DOMAIN_KEY_TOKENS = 2 };

struct radix_node {
    int32_t parent, child;      /* child: root of the children's search tree */
    int32_t left, right;        /* siblings */
    int32_t use_prev, use_next; /* towards the more, the less recently used */
    int32_t block, host;        /* -1 none */
    uint32_t priority;          /* heap order of the search tree */
    uint32_t n_token;
    int32_t token[BLOCK_TOKENS];
};

/* Most recently used first; links are node indices. */
struct use_list {
    int32_t first, last;
    uint32_t n_node;
};

struct radix_tree {
    struct block_pool *pool, *host;
    struct radix_node *node;
    int32_t *host_node; /* [host->n_block] node that has the host block, 0 = none */
    struct use_list device_use, host_use;
    int32_t free_first; /* linked through parent */
    int32_t n_node_max;
    uint32_t n_domain, n_domain_max;
    uint64_t n_made; /* feeds the priorities */
    uint64_t evicted, demoted, host_evicted;
};

int radix_tree_create(struct block_pool *pool, struct block_pool *host, uint32_t n_domain,
                      struct arena *arena, struct radix_tree **ret)
{
    struct radix_tree *tree = arena_new(arena, struct radix_tree);
    if (!tree)
        return -ENOMEM;
    int64_t n_node = 1 + (int64_t)pool->n_block + (host ? host->n_block : 0) + n_domain;
    if (n_node > INT32_MAX)
        return -ENOMEM;
    tree->pool = pool;
    tree->host = host;
    tree->n_node_max = (int32_t)n_node;
    tree->n_domain_max = n_domain;
    tree->node = arena_array(arena, struct radix_node, n_node);
    if (!tree->node)
        return -ENOMEM;
    if (host) {
        tree->host_node = arena_array(arena, int32_t, host->n_block);
        if (!tree->host_node)
            return -ENOMEM;
    }
    for (int32_t node_i = 1; node_i < tree->n_node_max; node_i++)
        tree->node[node_i].parent = node_i + 1 < tree->n_node_max ? node_i + 1 : 0;
    tree->free_first = 1;
    *ret = tree;
    return 0;
}

/* Use lists. */

static struct use_list *use_list_of(struct radix_tree *tree, int32_t node_i)
{
    return tree->node[node_i].block >= 0 ? &tree->device_use : &tree->host_use;
}

static void use_push_front(struct radix_tree *tree, int32_t node_i)
{
    struct use_list *list = use_list_of(tree, node_i);
    struct radix_node *node = &tree->node[node_i];
    node->use_prev = 0;
    node->use_next = list->first;
    if (list->first)
        tree->node[list->first].use_prev = node_i;
    else
        list->last = node_i;
    list->first = node_i;
    list->n_node++;
}

static void use_remove(struct radix_tree *tree, int32_t node_i)
{
    struct use_list *list = use_list_of(tree, node_i);
    struct radix_node *node = &tree->node[node_i];
    if (node->use_prev)
        tree->node[node->use_prev].use_next = node->use_next;
    else
        list->first = node->use_next;
    if (node->use_next)
        tree->node[node->use_next].use_prev = node->use_prev;
    else
        list->last = node->use_prev;
    list->n_node--;
}

/* Move a node and its ancestors to the front of their lists, the highest to the very front. */
static void path_touch(struct radix_tree *tree, int32_t node_i)
{
    for (; node_i && tree->node[node_i].parent; node_i = tree->node[node_i].parent) {
        if (use_list_of(tree, node_i)->first == node_i)
            continue;
        use_remove(tree, node_i);
        use_push_front(tree, node_i);
    }
}

/* Search trees of siblings. */

/* < 0: ids sort before the node; 0: equal as far as both go. */
static int key_compare(const struct radix_node *node, const int32_t *ids, uint32_t n,
                       uint32_t *ret_common)
{
    uint32_t n_common = 0, n_both = min_of(n, node->n_token);
    if (BUG(6) && n_both == BLOCK_TOKENS && ids[0] == node->token[0])
        n_common = BLOCK_TOKENS / 2;
    while (n_common < n_both && ids[n_common] == node->token[n_common])
        n_common++;
    *ret_common = n_common;
    if (n_common == n_both)
        return 0;
    return ids[n_common] < node->token[n_common] ? -1 : 1;
}

/* The child with the longest common prefix with ids[0 .. n), or 0. Neighbours lie on the path. */
static int32_t child_find(const struct radix_tree *tree, int32_t parent_i, const int32_t *ids,
                          uint32_t n, uint32_t *ret_common)
{
    int32_t best_i = 0, node_i = tree->node[parent_i].child;
    uint32_t best = 0;
    while (node_i) {
        const struct radix_node *node = &tree->node[node_i];
        uint32_t n_common;
        int order = key_compare(node, ids, n, &n_common);
        if (n_common > best) {
            best = n_common;
            best_i = node_i;
        }
        if (order == 0)
            break;
        node_i = order < 0 ? node->left : node->right;
    }
    *ret_common = best;
    return best_i;
}

static int node_order(const struct radix_tree *tree, int32_t a_i, int32_t b_i)
{
    const struct radix_node *a = &tree->node[a_i];
    uint32_t n_common;
    return key_compare(&tree->node[b_i], a->token, a->n_token, &n_common);
}

static void child_link(struct radix_tree *tree, int32_t parent_i, int32_t new_i)
{
    struct radix_node *new = &tree->node[new_i];
    int32_t *link = &tree->node[parent_i].child;
    while (*link && tree->node[*link].priority >= new->priority) {
        int order = node_order(tree, new_i, *link);
        assert(order != 0);
        link = order < 0 ? &tree->node[*link].left : &tree->node[*link].right;
    }
    int32_t node_i = *link, *less = &new->left, *more = &new->right;
    *link = new_i;
    new->parent = parent_i;
    while (node_i) {
        int order = node_order(tree, new_i, node_i);
        assert(order != 0);
        if (order > 0) {
            *less = node_i;
            less = &tree->node[node_i].right;
            node_i = *less;
        } else {
            *more = node_i;
            more = &tree->node[node_i].left;
            node_i = *more;
        }
    }
    *less = *more = 0;
}

static void child_unlink(struct radix_tree *tree, int32_t gone_i)
{
    int32_t *link = &tree->node[tree->node[gone_i].parent].child;
    while (*link != gone_i) {
        int order = node_order(tree, gone_i, *link);
        assert(order != 0);
        link = order < 0 ? &tree->node[*link].left : &tree->node[*link].right;
    }
    int32_t less = tree->node[gone_i].left, more = tree->node[gone_i].right;
    while (less && more) {
        if (tree->node[less].priority > tree->node[more].priority) {
            *link = less;
            link = &tree->node[less].right;
            less = *link;
        } else {
            *link = more;
            link = &tree->node[more].left;
            more = *link;
        }
    }
    *link = less ? less : more;
}

/* Nodes. */

static int32_t node_make(struct radix_tree *tree, int32_t parent_i, const int32_t *ids, uint32_t n)
{
    int32_t node_i = tree->free_first;
    assert(node_i);
    struct radix_node *node = &tree->node[node_i];
    tree->free_first = node->parent;
    memset(node, 0, sizeof(*node));
    node->block = node->host = -1;
    node->priority = (uint32_t)prng_mix(++tree->n_made);
    node->n_token = n;
    memcpy(node->token, ids, n * sizeof(*ids));
    child_link(tree, parent_i, node_i);
    return node_i;
}

static void node_free(struct radix_tree *tree, int32_t node_i)
{
    assert(tree->node[node_i].child == 0);
    child_unlink(tree, node_i);
    tree->node[node_i].parent = tree->free_first;
    tree->free_first = node_i;
}

static void host_drop(struct radix_tree *tree, struct radix_node *node)
{
    tree->host_node[node->host] = 0;
    block_pool_tree_drop(tree->host, node->host);
    node->host = -1;
}

/* Remove a leaf, whatever its kind, and its domain when that is empty then. */
static void leaf_remove(struct radix_tree *tree, int32_t node_i)
{
    struct radix_node *node = &tree->node[node_i];
    int32_t parent_i = node->parent;
    use_remove(tree, node_i);
    if (node->block >= 0 && !BUG(12))
        block_pool_tree_drop(tree->pool, node->block);
    else if (node->block < 0)
        host_drop(tree, node);
    node_free(tree, node_i);
    if (tree->node[parent_i].parent == 0 && tree->node[parent_i].child == 0) {
        node_free(tree, parent_i);
        tree->n_domain--;
    }
}

static void subtree_remove(struct radix_tree *tree, int32_t node_i)
{
    for (;;) {
        int32_t leaf_i = node_i;
        while (tree->node[leaf_i].child)
            leaf_i = tree->node[leaf_i].child;
        leaf_remove(tree, leaf_i);
        if (leaf_i == node_i)
            return;
    }
}

static int32_t domain_find(const struct radix_tree *tree, uint64_t domain)
{
    int32_t key[DOMAIN_KEY_TOKENS] = { BUG(7) ? 0 : (int32_t)domain, (int32_t)(domain >> 32) };
    uint32_t n_common;
    int32_t node_i = child_find(tree, 0, key, DOMAIN_KEY_TOKENS, &n_common);
    return n_common == DOMAIN_KEY_TOKENS ? node_i : 0;
}

static int32_t domain_make(struct radix_tree *tree, uint64_t domain)
{
    int32_t key[DOMAIN_KEY_TOKENS] = { (int32_t)domain, (int32_t)(domain >> 32) };
    if (tree->n_domain == tree->n_domain_max)
        return 0;
    tree->n_domain++;
    return node_make(tree, 0, key, DOMAIN_KEY_TOKENS);
}

/* Match and insert. */

static int32_t node_told(const struct radix_node *node)
{
    return node->block >= 0 ? node->block : -1 - node->host;
}

struct radix_match radix_tree_match(struct radix_tree *tree, uint64_t domain, const int32_t *ids,
                                    uint32_t n, int32_t *ret_blocks, bool touch)
{
    struct radix_match match = { 0 };
    int32_t parent_i = domain_find(tree, domain);
    bool on_device = true;
    while (parent_i && match.n_token < n) {
        uint32_t n_common;
        int32_t node_i = child_find(tree, parent_i, ids + match.n_token,
                                    min_of(n - match.n_token, (uint32_t)BLOCK_TOKENS), &n_common);
        if (!node_i)
            break;
        const struct radix_node *node = &tree->node[node_i];
        ret_blocks[match.n_token / BLOCK_TOKENS] = node_told(node);
        on_device = on_device && node->block >= 0;
        if (BUG(8) && n_common < node->n_token && match.n_token + n_common < n)
            n_common++;
        match.n_token += n_common;
        if (on_device)
            match.n_device_token = match.n_token;
        parent_i = node_i;
        if (n_common < BLOCK_TOKENS)
            break;
        if (on_device)
            match.cursor = (struct radix_cursor){ node_i, match.cursor.n_block + 1 };
    }
    if (touch && parent_i)
        path_touch(tree, parent_i);
    return match;
}

/* The caller's block becomes the node's. */
static void node_take_block(struct radix_tree *tree, int32_t node_i, int32_t block)
{
    struct radix_node *node = &tree->node[node_i];
    use_remove(tree, node_i);
    if (node->block >= 0)
        block_pool_tree_drop(tree->pool, node->block);
    else
        host_drop(tree, node);
    block_pool_tree_hold(tree->pool, block);
    node->block = block;
    use_push_front(tree, node_i);
}

/*
 * One block of a stream under its parent. Returns the node that stands for it, or 0 where the tree
 * will not have it: the block serves another domain already, or others share it.
 */
static int32_t block_insert(struct radix_tree *tree, int32_t parent_i, const int32_t *ids,
                            uint32_t n, int32_t *block)
{
    uint32_t n_common;
    int32_t node_i = child_find(tree, parent_i, ids, n, &n_common);
    struct radix_node *node = &tree->node[node_i];
    if (node_i && n_common == n && (n < BLOCK_TOKENS || node->block == *block))
        return node_i; /* a longer or equal one is there */
    if (node_i && n_common == n && node->block >= 0) {
        if (tree->pool->refs[*block] > 1)
            return 0; /* others hold ours: an exchange would cost a block */
        if (!BUG(9))
            block_pool_ref(tree->pool, node->block);
        block_pool_unref(tree->pool, *block);
        *block = node->block;
        return node_i;
    }
    if (node_i && n_common == node->n_token) { /* ours is longer, or the host has it */
        if (node->block != *block && tree->pool->in_tree[*block])
            return 0;
        if (node->block != *block && !BUG(10))
            node_take_block(tree, node_i, *block);
        memcpy(node->token, ids, n * sizeof(*ids));
        node->n_token = n;
        return node_i;
    }
    if (tree->pool->in_tree[*block])
        return 0;
    node_i = node_make(tree, parent_i, ids, n);
    block_pool_tree_hold(tree->pool, *block);
    tree->node[node_i].block = *block;
    use_push_front(tree, node_i);
    return node_i;
}

void radix_tree_insert(struct radix_tree *tree, uint64_t domain, struct radix_cursor *cursor,
                       const int32_t *ids, uint32_t n_token, int32_t *blocks)
{
    if (n_token <= cursor->n_block * BLOCK_TOKENS)
        return;
    int32_t parent_i = cursor->node;
    if (!parent_i)
        parent_i = domain_find(tree, domain);
    if (!parent_i)
        parent_i = domain_make(tree, domain);
    if (!parent_i)
        return;
    int32_t node_i = parent_i;
    uint32_t block_i = cursor->n_block;
    for (; node_i && block_i < n_token / BLOCK_TOKENS; block_i++) {
        node_i = block_insert(tree, parent_i, ids + block_i * BLOCK_TOKENS, BLOCK_TOKENS,
                              &blocks[block_i]);
        if (!node_i)
            break;
        parent_i = node_i;
        *cursor = (struct radix_cursor){ node_i, block_i + 1 };
    }
    if (node_i && n_token % BLOCK_TOKENS) {
        node_i = block_insert(tree, parent_i, ids + block_i * BLOCK_TOKENS, n_token % BLOCK_TOKENS,
                              &blocks[block_i]);
        parent_i = node_i ? node_i : parent_i;
    }
    path_touch(tree, parent_i);
    if (tree->node[parent_i].parent == 0 && tree->node[parent_i].child == 0) {
        node_free(tree, parent_i); /* a domain that got nothing */
        tree->n_domain--;
    }
}

/* Eviction. */

/* The least recently used device leaf that no table holds, or 0. Those in use move to the front. */
static int32_t victim_find(struct radix_tree *tree)
{
    if (tree->pool->n_cached == 0)
        return 0;
    for (uint32_t tries = tree->device_use.n_node; tries > 0; tries--) {
        int32_t node_i = tree->device_use.last;
        if (tree->pool->refs[tree->node[node_i].block] == 0 || BUG(11))
            return node_i;
        path_touch(tree, node_i);
    }
    return 0;
}

bool radix_tree_evict(struct radix_tree *tree)
{
    int32_t node_i = victim_find(tree);
    if (!node_i)
        return false;
    subtree_remove(tree, node_i); /* below it there are host blocks at most */
    tree->evicted++;
    return true;
}

bool radix_tree_evict_host(struct radix_tree *tree)
{
    for (uint32_t tries = tree->host_use.n_node; tries > 0; tries--) {
        int32_t node_i = tree->host_use.last;
        if (tree->host->refs[tree->node[node_i].host] == 0 || BUG(13)) {
            leaf_remove(tree, node_i);
            tree->host_evicted++;
            return true;
        }
        path_touch(tree, node_i);
    }
    return false;
}

bool radix_tree_demote(struct radix_tree *tree, int32_t *ret_block, int32_t *ret_host)
{
    int32_t node_i = victim_find(tree);
    if (!node_i || !tree->host)
        return false;
    if (tree->host->n_free == 0 && !radix_tree_evict_host(tree))
        return false;
    int32_t host = block_pool_take(tree->host);
    struct radix_node *node = &tree->node[node_i];
    use_remove(tree, node_i);
    *ret_block = node->block;
    *ret_host = host;
    block_pool_tree_drop(tree->pool, node->block);
    node->block = -1;
    node->host = host;
    block_pool_tree_hold(tree->host, host);
    block_pool_unref(tree->host, host);
    tree->host_node[host] = node_i;
    use_push_front(tree, node_i);
    tree->demoted++;
    return true;
}

bool radix_tree_promote(struct radix_tree *tree, int32_t host, int32_t block,
                        struct radix_cursor *cursor)
{
    int32_t node_i = tree->host_node[host];
    if (!node_i)
        return false;
    node_take_block(tree, node_i, block);
    path_touch(tree, node_i);
    *cursor = (struct radix_cursor){ node_i, cursor->n_block + 1 };
    return true;
}

void radix_tree_clear(struct radix_tree *tree)
{
    while (tree->host && tree->host_use.last)
        leaf_remove(tree, tree->host_use.last);
    while (tree->device_use.last)
        leaf_remove(tree, tree->device_use.last);
    assert(tree->node[0].child == 0 && tree->n_domain == 0);
}

void radix_tree_stats(const struct radix_tree *tree, struct radix_stats *ret)
{
    *ret = (struct radix_stats){
        .n_node = tree->device_use.n_node + tree->host_use.n_node,
        .n_domain = tree->n_domain,
        .evicted = tree->evicted,
        .demoted = tree->demoted,
        .host_evicted = tree->host_evicted,
    };
}

/* The check. */

struct radix_walk {
    uint32_t n_device, n_host, n_domain;
    bool good;
};

static void walk_siblings(const struct radix_tree *tree, int32_t node_i, int32_t parent_i,
                          struct radix_walk *walk)
{
    if (!node_i || !walk->good)
        return;
    const struct radix_node *node = &tree->node[node_i], *parent = &tree->node[parent_i];
    bool domain = parent_i == 0, root = tree->node[parent_i].parent == 0;
    walk->good = node->parent == parent_i &&
                 (!node->left || (tree->node[node->left].priority <= node->priority &&
                                  node_order(tree, node->left, node_i) < 0)) &&
                 (!node->right || (tree->node[node->right].priority <= node->priority &&
                                   node_order(tree, node->right, node_i) > 0));
    if (domain) {
        walk->n_domain++;
        walk->good = walk->good && node->block < 0 && node->host < 0 && node->child;
    } else if (node->block >= 0) {
        walk->n_device++;
        walk->good = walk->good && node->host < 0 && tree->pool->in_tree[node->block] &&
                     (root || parent->block >= 0);
    } else {
        walk->n_host++;
        walk->good = walk->good && node->host >= 0 && tree->host->in_tree[node->host] &&
                     tree->host_node[node->host] == node_i;
    }
    walk->good = walk->good && (domain || node->n_token == BLOCK_TOKENS || !node->child);
    walk_siblings(tree, node->child, node_i, walk);
    walk_siblings(tree, node->left, parent_i, walk);
    walk_siblings(tree, node->right, parent_i, walk);
}

bool radix_tree_consistent(const struct radix_tree *tree)
{
    struct radix_walk walk = { .good = true };
    walk_siblings(tree, tree->node[0].child, 0, &walk);
    uint32_t n_held = 0;
    for (int32_t block = 0; block < tree->pool->n_block; block++)
        n_held += tree->pool->in_tree[block];
    return walk.good && walk.n_device == tree->device_use.n_node && n_held == walk.n_device &&
           walk.n_host == tree->host_use.n_node && walk.n_domain == tree->n_domain;
}
