/* bench_clients: a thousand simulated generators against a coordinator that is there already;
 * tests/bench/coordinator starts one and reads the JSON document that this prints.
 *
 *     bench_clients --port P --ca FILE --cert FILE --server-name NAME --token FILE [options]
 *
 * One thread drives all connections, each with TLS and a worker of its own. Time is counted from
 * the moment when every client has said hello. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/mem.h"
#include "tests/bench/clients/client.h"
#include "tests/bench/clients/upload.h"

#define MS 1000000ll
#define SECOND (1000 * MS)
#define TICK_MS 4
#define EVENTS 256
#define SETTLE_NS (2 * SECOND) /* after the last client is back, or an upload's end */
#define PATIENCE_NS (600 * SECOND)
#define DIALS_A_SECOND 400

struct bench {
    struct clients all;
    struct client *clients;
    uint32_t count, workers, idle, slow, silent, mute;
    double seconds, upload_at_s;
    struct upload upload;
    uint32_t tokens, vocab;
    int64_t ready_ns;      /* when everybody had said hello */
    int64_t calm_again_ns; /* end of the phase that is no calm one */
    int64_t last_ack_ns, longest_gap_ns;
    int64_t storm_ns, storm_longest_ns; /* since when somebody is away; the longest so far */
    uint64_t *by_second;
    uint32_t second_count;
};

static struct bench bench; /* one in a process */

enum {
    OPT_FIRST = 256,
    OPT_PORT = OPT_FIRST,
    OPT_CA,
    OPT_CERT,
    OPT_SERVER,
    OPT_TOKEN,
    OPT_CLIENTS,
    OPT_SECONDS,
    OPT_RATE,
    OPT_IDLE,
    OPT_SLOW,
    OPT_SILENT,
    OPT_TOKENS,
    OPT_VOCAB,
    OPT_LEASE,
    OPT_SUBMIT,
    OPT_WAIT,
    OPT_UPLOAD,
    OPT_UPLOAD_AT,
    OPT_UPLOAD_TOKEN
};

static const struct option options[] = {
    {"port", 1, NULL, OPT_PORT},
    {"ca", 1, NULL, OPT_CA},
    {"cert", 1, NULL, OPT_CERT},
    {"server-name", 1, NULL, OPT_SERVER},
    {"token", 1, NULL, OPT_TOKEN},
    {"clients", 1, NULL, OPT_CLIENTS},
    {"seconds", 1, NULL, OPT_SECONDS},
    {"rate", 1, NULL, OPT_RATE},
    {"idle", 1, NULL, OPT_IDLE},
    {"slow", 1, NULL, OPT_SLOW},
    {"silent", 1, NULL, OPT_SILENT},
    {"tokens", 1, NULL, OPT_TOKENS},
    {"vocab", 1, NULL, OPT_VOCAB},
    {"lease-items", 1, NULL, OPT_LEASE},
    {"submit-items", 1, NULL, OPT_SUBMIT},
    {"submit-wait", 1, NULL, OPT_WAIT},
    {"upload", 1, NULL, OPT_UPLOAD},
    {"upload-at", 1, NULL, OPT_UPLOAD_AT},
    {"upload-token", 1, NULL, OPT_UPLOAD_TOKEN},
    {0},
};

static char *read_token(const char *path)
{
    char *text = NULL;
    size_t length;
    struct sp_error err;
    if (sp_read_secret(path, 4096, &text, &length, &err) != SP_OK) {
        fprintf(stderr, "bench_clients: %s\n", err.text);
        exit(1);
    }
    text[strcspn(text, "\n")] = '\0';
    return text;
}

/* ---- the loop ---- */

static void look_at_phase(int64_t now_ns)
{
    struct stats *stats = &bench.all.stats;
    uint32_t away = 0;
    for (uint32_t i = 0; i < bench.workers; i++) {
        const struct client *client = &bench.clients[i];
        away += client->conn.state != CONN_READY || client->asks[ASK_HELLO].wanted;
    }
    if (away > 0 && bench.storm_ns == 0)
        bench.storm_ns = now_ns;
    if (away == 0 && bench.storm_ns > 0) {
        bench.storm_longest_ns = SP_MAX(bench.storm_longest_ns, now_ns - bench.storm_ns);
        bench.storm_ns = 0;
    }
    if (away > 0)
        stats->phase = STATS_STORM;
    else if (atomic_load(&bench.upload.running) && stats->phase != STATS_STORM)
        stats->phase = STATS_UPLOAD;
    if (away > 0 || atomic_load(&bench.upload.running))
        bench.calm_again_ns = SP_MAX(bench.calm_again_ns, now_ns + (away ? SETTLE_NS : SECOND));
    if (now_ns >= bench.calm_again_ns)
        stats->phase = STATS_CALM;
}

static void note_acks(int64_t now_ns, uint64_t before)
{
    if (bench.ready_ns == 0)
        return;
    if (bench.all.acknowledged > before) {
        bench.longest_gap_ns = SP_MAX(bench.longest_gap_ns, now_ns - bench.last_ack_ns);
        bench.last_ack_ns = now_ns;
    }
    uint32_t second = (uint32_t)((now_ns - bench.ready_ns) / SECOND);
    if (second < bench.second_count)
        bench.by_second[second] += bench.all.acknowledged - before;
}

static void turn(void)
{
    static int64_t next_ns;
    struct epoll_event events[EVENTS];
    uint64_t before = bench.all.acknowledged;
    int n = epoll_wait(bench.all.net.epoll, events, EVENTS, TICK_MS);
    for (int i = 0; i < n; i++)
        conn_event(events[i].data.ptr, events[i].events);
    int64_t now_ns = sp_now_ns();
    note_acks(now_ns, before);
    if (now_ns < next_ns)
        return;
    next_ns = now_ns + TICK_MS * MS;
    for (uint32_t i = 0; i < bench.count; i++)
        client_wake(&bench.clients[i], now_ns);
    if (bench.ready_ns > 0)
        look_at_phase(now_ns);
}

static uint32_t not_ready(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < bench.count; i++)
        n += bench.clients[i].kind != CLIENT_MUTE && !bench.clients[i].said_hello;
    return n;
}

static void connect_all(void)
{
    int64_t give_up_ns = sp_now_ns() + PATIENCE_NS;
    while (not_ready() > 0) {
        turn();
        if (sp_now_ns() > give_up_ns) {
            const struct client *one = bench.clients;
            while (one->said_hello || one->kind == CLIENT_MUTE)
                one++;
            fprintf(stderr,
                    "bench_clients: %u of %u clients could not say hello, the first of them %u: "
                    "connection in state %d, hello %s\n",
                    not_ready(), bench.count, one->number, (int)one->conn.state,
                    one->asks[ASK_HELLO].out ? "sent" : "not sent");
            exit(1);
        }
    }
}

static void run(void)
{
    int64_t end_ns = bench.ready_ns + (int64_t)(bench.seconds * (double)SECOND);
    int64_t upload_ns = bench.ready_ns + (int64_t)(bench.upload_at_s * (double)SECOND);
    bench.last_ack_ns = bench.ready_ns;
    for (int64_t now_ns; (now_ns = sp_now_ns()) < end_ns;) {
        turn();
        if (bench.upload.bytes > 0 && upload_ns > 0 && now_ns >= upload_ns) {
            upload_start(&bench.upload);
            upload_ns = 0;
        }
    }
}

/* What is on its way is waited for: every acknowledgement counts. */
static void finish(void)
{
    int64_t give_up_ns = sp_now_ns() + PATIENCE_NS;
    bool busy = true;
    bench.all.stopping = true;
    while (busy && sp_now_ns() < give_up_ns) {
        turn();
        busy = bench.upload.bytes > 0 && !atomic_load(&bench.upload.ended);
        for (uint32_t i = 0; i < bench.count && !busy; i++)
            busy = !client_is_quiet(&bench.clients[i]);
    }
}

/* ---- the document ---- */

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
           (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
}

static void print_document(double connect_s, double seconds, uint64_t acknowledged)
{
    struct stats *stats = &bench.all.stats;
    json_t *series = json_array();
    for (uint32_t i = 0; i < bench.second_count; i++)
        json_array_append_new(series, json_integer((json_int_t)bench.by_second[i]));
    json_t *upload = json_null();
    if (bench.upload.bytes > 0)
        upload =
            json_pack("{s:f,s:f,s:f,s:f,s:s,s:b}", "mib", (double)bench.upload.bytes / 1048576,
                      "seconds", bench.upload.seconds, "worst_put_ms", bench.upload.worst_put_ms,
                      "client_cpu_s", bench.upload.cpu_seconds, "error", bench.upload.error,
                      "ended", (int)atomic_load(&bench.upload.ended));
    if (bench.upload.error[0] != '\0')
        stats_error(stats, "upload: %s", bench.upload.error);
    json_t *document = json_pack(
        "{s:i,s:i,s:i,s:i,s:f,s:f,s:I,s:f,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:o,s:o,"
        "s:o,s:o}",
        "clients", (int)bench.workers, "idle", (int)bench.idle, "slow", (int)bench.slow, "silent",
        (int)(bench.silent + bench.mute), "connect_s", connect_s, "seconds", seconds,
        "acknowledged", (json_int_t)acknowledged, "pairs_per_s", (double)acknowledged / seconds,
        "duplicates", (json_int_t)bench.all.duplicates, "submissions",
        (json_int_t)bench.all.submissions, "lost_connections",
        (json_int_t)bench.all.lost_connections, "hellos", (json_int_t)bench.all.hellos,
        "handshakes", (json_int_t)bench.all.net.handshakes, "longest_gap_s",
        (double)bench.longest_gap_ns / 1e9, "storm_s", (double)bench.storm_longest_ns / 1e9,
        "client_cpu_s", cpu_seconds(), "mib_in", (double)bench.all.net.bytes_in / 1048576,
        "mib_out", (double)bench.all.net.bytes_out / 1048576, "retries", (json_int_t)stats->retries,
        "errors", (json_int_t)stats->errors, "error_texts", stats_errors_json(stats), "latency_ms",
        stats_times_json(stats), "upload", upload, "pairs_by_second", series);
    json_dumpf(document, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(document);
}

/* ---- the beginning ---- */

struct arguments {
    const char *ca, *cert, *server, *token, *upload_token;
    int port;
    double rate;
};

static void parse(int argc, char **argv, struct arguments *a)
{
    struct clients_options *o = &bench.all.options;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        const char *v = optarg;
        switch (c) {
        case OPT_PORT:
            a->port = atoi(v);
            break;
        case OPT_CA:
            a->ca = v;
            break;
        case OPT_CERT:
            a->cert = v;
            break;
        case OPT_SERVER:
            a->server = v;
            break;
        case OPT_TOKEN:
            a->token = v;
            break;
        case OPT_CLIENTS:
            bench.workers = (uint32_t)atoi(v);
            break;
        case OPT_SECONDS:
            bench.seconds = atof(v);
            break;
        case OPT_RATE:
            a->rate = strcmp(v, "max") == 0 ? 0 : atof(v);
            break;
        case OPT_IDLE:
            bench.idle = (uint32_t)atoi(v);
            break;
        case OPT_SLOW:
            bench.slow = (uint32_t)atoi(v);
            break;
        case OPT_SILENT:
            bench.silent = (uint32_t)atoi(v);
            break;
        case OPT_TOKENS:
            bench.tokens = (uint32_t)atoi(v);
            break;
        case OPT_VOCAB:
            bench.vocab = (uint32_t)atoi(v);
            break;
        case OPT_LEASE:
            o->lease_items = (uint32_t)atoi(v);
            break;
        case OPT_SUBMIT:
            o->submit_items = (uint32_t)atoi(v);
            break;
        case OPT_WAIT:
            o->submit_ms = atoi(v);
            break;
        case OPT_UPLOAD:
            bench.upload.bytes = strtoull(v, NULL, 10);
            break;
        case OPT_UPLOAD_AT:
            bench.upload_at_s = atof(v);
            break;
        case OPT_UPLOAD_TOKEN:
            a->upload_token = v;
            break;
        default:
            exit(2);
        }
    }
    if (!a->port || !a->ca || !a->cert || !a->server || !a->token || o->lease_items > 32 ||
        o->submit_items == 0 || o->submit_items > ANSWERS_MAX) {
        fprintf(stderr,
                "bench_clients: port, ca, cert, server-name and token are needed; at most "
                "32 lease items and %d submit items\n",
                ANSWERS_MAX);
        exit(2);
    }
}

static void make_clients(void)
{
    int64_t now_ns = sp_now_ns();
    const struct {
        enum client_kind kind;
        uint32_t count;
    } parts[] = {{CLIENT_WORKS, bench.workers},
                 {CLIENT_IDLES, bench.idle},
                 {CLIENT_SLOW, bench.slow},
                 {CLIENT_SILENT, bench.silent},
                 {CLIENT_MUTE, bench.mute}};
    for (size_t p = 0; p < SP_COUNT(parts); p++)
        bench.count += parts[p].count;
    bench.clients = sp_xarray(bench.count, sizeof(*bench.clients));
    uint32_t n = 0;
    for (size_t p = 0; p < SP_COUNT(parts); p++) {
        for (uint32_t i = 0; i < parts[p].count; i++, n++)
            client_init(&bench.clients[n], &bench.all, parts[p].kind, n,
                        now_ns + n * (SECOND / DIALS_A_SECOND));
    }
}

static void raise_files(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv)
{
    struct arguments a = {.rate = 2000};
    bench.workers = 1000;
    bench.seconds = 10;
    bench.tokens = 512;
    bench.vocab = 256;
    bench.all.options =
        (struct clients_options){.lease_items = 32, .submit_items = 64, .submit_ms = 1000};
    parse(argc, argv, &a);
    raise_files();
    signal(SIGPIPE, SIG_IGN); /* a connection that breaks is an answer, too */
    bench.mute = bench.silent / 2;
    bench.silent -= bench.mute;
    char *token = read_token(a.token), *url = sp_xprintf("tls+tcp://127.0.0.1:%d", a.port);
    bench.all.options.token = token;
    if (a.rate > 0 && bench.workers > 0)
        bench.all.options.pair_period_ns = 1e9 * bench.workers / a.rate;
    sp_random_secret(&bench.all.rng, sizeof(bench.all.rng));
    bench.all.rng |= 1;
    bench.all.arena = sp_arena_new(1 << 20, SP_MAX_DECODED_MESSAGE);
    bench.all.answers = answers_new(token, bench.tokens, bench.vocab);
    bench.second_count = (uint32_t)bench.seconds + 1;
    bench.by_second = sp_xarray(bench.second_count, sizeof(*bench.by_second));
    stats_init(&bench.all.stats);
    conn_net_init(&bench.all.net, (uint16_t)a.port, a.ca, a.cert, a.server);
    char *upload_token = a.upload_token ? read_token(a.upload_token) : NULL;
    bench.upload.options = (struct proto_client_options){
        .url = url,
        .tls = {.ca_file = a.ca, .cert_file = a.cert, .server_name = a.server},
        .token = upload_token};
    make_clients();
    int64_t start_ns = sp_now_ns();
    connect_all();
    bench.ready_ns = sp_now_ns();
    bench.all.started = true;
    fprintf(stderr, "ready\n");
    uint64_t before = bench.all.acknowledged;
    stats_deinit(&bench.all.stats);
    stats_init(&bench.all.stats);
    run();
    uint64_t acknowledged = bench.all.acknowledged - before;
    double seconds = (double)(sp_now_ns() - bench.ready_ns) / 1e9;
    fprintf(stderr, "over\n");
    finish();
    print_document((double)(bench.ready_ns - start_ns) / 1e9, seconds, acknowledged);
    for (uint32_t i = 0; i < bench.count; i++)
        conn_close(&bench.clients[i].conn);
    conn_net_deinit(&bench.all.net);
    stats_deinit(&bench.all.stats);
    answers_free(bench.all.answers);
    sp_arena_free(bench.all.arena);
    free(bench.clients);
    free(bench.by_second);
    free(token);
    free(upload_token);
    free(url);
    return 0;
}
