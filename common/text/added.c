/* Added tokens: found in the text before it is split and merged, leftmost first, longest first.
 * Source of the rules: AddedVocabulary::find_matches of the library that defines the format. */
#include <stdlib.h>

#include "common/text/internal.h"

struct key {
    const struct sp_buf *text;
    size_t token;
};

static int compare_keys(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    size_t n = SP_MIN(x->text->length, y->text->length);
    int order = n > 0 ? memcmp(x->text->data, y->text->data, n) : 0;
    if (order != 0)
        return order;
    if (x->text->length != y->text->length)
        return x->text->length < y->text->length ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* Sorted keys [low, high) share their first `depth` bytes, which lead to `node`. */
struct pending {
    size_t low, high, depth;
};

void tok_added_init(struct tok_added *added, const struct tok_added_token *tokens,
                    const struct sp_buf *keys, size_t count)
{
    *added = (struct tok_added){.count = count};
    added->tokens = sp_xarray(count + 1, sizeof(*added->tokens));
    struct key *sorted = sp_xarray(count + 1, sizeof(*sorted));
    size_t total = 1;
    for (size_t i = 0; i < count; i++) {
        added->tokens[i] = tokens[i];
        sorted[i] = (struct key){.text = &keys[i], .token = i};
        total += keys[i].length;
        if (keys[i].length > 0)
            added->starts[(uint8_t)keys[i].data[0]] = true;
    }
    qsort(sorted, count, sizeof(*sorted), compare_keys);
    added->nodes = sp_xarray(total, sizeof(*added->nodes));
    added->edges = sp_xarray(total, sizeof(*added->edges));
    struct pending *queue = sp_xarray(total, sizeof(*queue));
    uint32_t nodes = 1, edges = 0;
    queue[0] = (struct pending){.low = 0, .high = count};
    for (uint32_t n = 0; n < nodes; n++) {
        struct pending p = queue[n];
        struct tok_trie_node *node = &added->nodes[n];
        *node = (struct tok_trie_node){.token = -1, .first = edges};
        for (; p.low < p.high && sorted[p.low].text->length == p.depth; p.low++)
            if (node->token < 0 && p.depth > 0)
                node->token = (int32_t)sorted[p.low].token;
        while (p.low < p.high) {
            uint8_t byte = (uint8_t)sorted[p.low].text->data[p.depth];
            size_t end = p.low;
            while (end < p.high && (uint8_t)sorted[end].text->data[p.depth] == byte)
                end++;
            added->edges[edges++] = (struct tok_trie_edge){.byte = byte, .node = nodes};
            queue[nodes++] = (struct pending){.low = p.low, .high = end, .depth = p.depth + 1};
            p.low = end;
        }
        node->edges = edges - node->first;
    }
    free(queue);
    free(sorted);
}

void tok_added_deinit(struct tok_added *added)
{
    free(added->tokens);
    free(added->nodes);
    free(added->edges);
    *added = (struct tok_added){0};
}

static const struct tok_trie_node *step(const struct tok_added *added,
                                        const struct tok_trie_node *node, uint8_t byte)
{
    size_t low = node->first, high = low + node->edges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (added->edges[middle].byte == byte)
            return &added->nodes[added->edges[middle].node];
        if (added->edges[middle].byte < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Length of the longest token that starts here, or 0. */
static size_t longest_at(const struct tok_added *added, const char *text, size_t length,
                         size_t *ret_token)
{
    const struct tok_trie_node *node = added->nodes;
    size_t best = 0;
    for (size_t i = 0; i < length; i++) {
        node = step(added, node, (uint8_t)text[i]);
        if (node == NULL)
            break;
        if (node->token >= 0) {
            best = i + 1;
            *ret_token = (size_t)node->token;
        }
    }
    return best;
}

static bool is_single_word(const char *text, size_t length, size_t start, size_t end)
{
    if (start > 0) {
        size_t before = tok_utf8_before(text, start);
        if (tok_is_word(tok_utf8_next(text, &before)))
            return false;
    }
    return end == length || !tok_is_word(tok_utf8_next(text, &end));
}

static bool accepted(const struct tok_added_token *token, const char *text, size_t length,
                     const char *user, unsigned flags, size_t start, size_t end)
{
    if (token->special) {
        if (flags & TOK_NO_SPECIAL_SPLIT)
            return false;
        if (user != NULL && memchr(user + start, 1, end - start) != NULL)
            return false;
    }
    return !token->single_word || is_single_word(text, length, start, end);
}

bool tok_added_find(const struct tok_added *added, const char *text, size_t length,
                    const char *user, unsigned flags, size_t from, size_t *at, size_t *ret_start,
                    size_t *ret_end, size_t *ret_token)
{
    if (added->count == 0)
        return false;
    for (size_t i = *at; i < length;) {
        if (!added->starts[(uint8_t)text[i]]) {
            i++;
            continue;
        }
        size_t index = 0;
        size_t n = longest_at(added, text + i, length - i, &index);
        if (n == 0) {
            i++;
            continue;
        }
        const struct tok_added_token *token = &added->tokens[index];
        size_t start = i, end = i + n;
        i = end;
        if (!accepted(token, text, length, user, flags, start, end))
            continue;
        *at = end;
        while (token->lstrip && start > from) {
            size_t before = tok_utf8_before(text, start), next = before;
            if (!tok_is_space(tok_utf8_next(text, &next)))
                break;
            start = before;
        }
        while (token->rstrip && end < length) {
            size_t next = end;
            if (!tok_is_space(tok_utf8_next(text, &next)))
                break;
            end = next;
        }
        if (token->lstrip && end <= from)
            continue; /* spaces that the token before has taken: there is nothing left of it */
        *ret_start = start;
        *ret_end = end;
        *ret_token = index;
        return true;
    }
    return false;
}
