// One case of the benchmark through llama.cpp's own interface, as its benchmark tools measure it, with two things they lack:
// a prompt's keys and values are kept in a file and read back (a deep cache need not be computed for every run), and texts can
// be scored. Prints one JSON object on the standard output, diagnostics on the standard error; exit code 1 on any failure.
//
//   peer-driver --model FILE --threads N --flash on|off --repack on|off --kv split|unified --cache f16|q8_0 --case KIND
//               [--depth D] [--n N] [--prompt P] [--gen G] [--len L] [--warm W] [--state PREFIX] [--lengths A,B,…]
//
// Kinds:
//   decode    D cached tokens, then G tokens one by one, as `llama-bench -d D -n G`
//   branches  N sequences over one prompt of P, G tokens each, as `llama-batched-bench -pps`; the prompt is not timed
//   prefill   P tokens at once, as `llama-bench -p P`
//   score     log-probabilities of N texts of L tokens each after one prompt of P, which is not timed: logits of every token
//             and their log-sum-exp
//   state     nothing is timed: computes a prompt and writes PREFIX.LENGTH for every length of --lengths
// W tokens (decode), steps (branches), texts (score) or prompt tokens (prefill) are run first and not timed.
// On several threads the result has the time that a line of memory needs between their cores and back, before and after.
// Tokens are pseudo-random; nothing is sampled from the logits, which the other side of the comparison does do.

#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sched.h>

namespace {

using Options = std::map<std::string, std::string>;

[[noreturn]] void fail(const std::string & what) { throw std::runtime_error(what); }

Options read_options(int argc, char ** argv) {
    static const char * known[] = { "model", "threads", "flash", "repack", "kv",   "case",  "depth",
                                    "n",     "prompt",  "gen",   "len",    "warm", "state", "lengths", "cache" };
    Options out;
    for (int i = 1; i < argc; i += 2) {
        const std::string name = argv[i];
        const bool is_known = name.rfind("--", 0) == 0 &&
            std::any_of(std::begin(known), std::end(known), [&](const char * k) { return name.substr(2) == k; });
        if (!is_known || i + 1 == argc) {
            fail("cannot use the option " + name + "; the head of driver.cpp lists them");
        }
        out[name.substr(2)] = argv[i + 1];
    }
    return out;
}

std::string text(const Options & options, const std::string & name) {
    const auto found = options.find(name);
    return found == options.end() ? std::string() : found->second;
}

int number(const Options & options, const std::string & name, int otherwise) {
    const std::string value = text(options, name);
    if (value.empty()) {
        return otherwise;
    }
    if (value.size() > 7 || value.find_first_not_of("0123456789") != std::string::npos) {
        fail("--" + name + " " + value + " is no count");
    }
    return std::atoi(value.c_str());
}

bool either(const Options & options, const std::string & name, const char * yes, const char * no) {
    const std::string value = text(options, name);
    if (value != yes && value != no) {
        fail("--" + name + " is " + yes + " or " + no);
    }
    return value == yes;
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct alignas(128) Line {
    std::atomic<unsigned> turn{ 0 };
};

/// Seconds that a line of memory needs from a core to another one and back, the shortest of some tries.
double seconds_to(int first, int second) {
    constexpr unsigned turns = 500;
    double shortest = 1e9;
    for (int attempt = 0; attempt < 4; attempt++) {
        Line there, back;
        const auto stay_on = [](int cpu) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cpu, &set);
            sched_setaffinity(0, sizeof(set), &set);
        };
        // A thread that has its core for itself never waits long; another one must not keep the core from its partner.
        const auto wait = [](const Line & line, unsigned turn) {
            for (unsigned looks = 0; line.turn.load() != turn; looks++) {
                if (looks > 10000) {
                    std::this_thread::yield();
                }
            }
        };
        std::thread partner([&] {
            stay_on(second);
            for (unsigned turn = 1; turn <= turns; turn++) {
                wait(there, turn);
                back.turn.store(turn);
            }
        });
        std::thread caller([&] {
            stay_on(first);
            there.turn.store(1);
            wait(back, 1);
            const double start = now();
            for (unsigned turn = 2; turn <= turns; turn++) {
                there.turn.store(turn);
                wait(back, turn);
            }
            shortest = std::min(shortest, (now() - start) / (turns - 1));
        });
        caller.join();
        partner.join();
    }
    return shortest;
}

/// The longest round trip from the first core that this process may use to another one; 0 on one thread.
double round_trip(int threads) {
    cpu_set_t allowed;
    if (threads < 2 || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return 0.0;
    }
    std::vector<int> cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE && int(cpus.size()) < threads; cpu++) {
        if (CPU_ISSET(cpu, &allowed)) {
            cpus.push_back(cpu);
        }
    }
    double longest = 0.0;
    for (size_t i = 1; i < cpus.size(); i++) {
        longest = std::max(longest, seconds_to(cpus[0], cpus[i]));
    }
    return longest;
}

/// A model with its context, a batch, and a source of tokens.
struct Peer {
    llama_model * model = nullptr;
    llama_context * context = nullptr;
    ggml_threadpool * pool = nullptr;
    llama_batch batch{};
    int capacity = 0;
    int threads = 1;
    uint64_t state = 0x9E3779B97F4A7C15ull;

    llama_memory_t memory() const { return llama_get_memory(context); }

    int vocab() const { return llama_vocab_n_tokens(llama_model_get_vocab(model)); }

    llama_token token() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return llama_token(state % uint64_t(vocab()));
    }

    void add(llama_token id, int position, int sequence, bool logits) {
        if (batch.n_tokens == capacity) {
            fail("a batch is full");
        }
        const int i = batch.n_tokens++;
        batch.token[i] = id;
        batch.pos[i] = position;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = sequence;
        batch.logits[i] = logits;
    }

    /// Computes the batch, waits for it and empties it.
    void decode() {
        const int code = llama_decode(context, batch);
        if (code != 0) {
            fail("llama_decode returned " + std::to_string(code));
        }
        llama_synchronize(context);
        batch.n_tokens = 0;
    }

    /// Tokens [from, to) of sequence 0, in batches; the last one's logits when asked for.
    void prompt(int from, int to, bool logits) {
        for (int i = from; i < to; i++) {
            add(token(), i, 0, logits && i + 1 == to);
            if (batch.n_tokens == capacity || i + 1 == to) {
                decode();
            }
        }
    }

    void forget(int sequence, int from) {
        if (!llama_memory_seq_rm(memory(), sequence, from, -1)) {
            fail("llama_memory_seq_rm refused");
        }
    }
};

/// A prompt of `length` tokens in sequence 0: from the file PREFIX.LENGTH, or computed.
void cached_prompt(Peer & peer, const Options & options, int length) {
    llama_memory_clear(peer.memory(), true);
    if (length == 0) {
        return;
    }
    const std::string prefix = text(options, "state");
    if (prefix.empty()) {
        peer.prompt(0, length, false);
        return;
    }
    const std::string path = prefix + "." + std::to_string(length);
    std::vector<llama_token> tokens(size_t(length) + 1);
    size_t count = 0;
    if (llama_state_seq_load_file(peer.context, path.c_str(), 0, tokens.data(), tokens.size(), &count) == 0 ||
        count != size_t(length)) {
        fail("cannot read the prompt's state " + path);
    }
}

/// Copies sequence 0 to the others. With a cache per sequence a token more carries the copy out, as in llama-batched-bench.
void spread_prompt(Peer & peer, int n, int prompt, bool unified) {
    for (int i = 1; i < n; i++) {
        llama_memory_seq_cp(peer.memory(), 0, i, -1, -1);
    }
    if (!unified) {
        peer.add(peer.token(), prompt, 0, true);
        peer.decode();
        peer.forget(0, prompt);
    }
}

double decode_seconds(Peer & peer, int depth, int gen) {
    const double start = now();
    for (int i = 0; i < gen; i++) {
        peer.add(peer.token(), depth + i, 0, true);
        peer.decode();
    }
    const double seconds = now() - start;
    peer.forget(0, depth);
    return seconds;
}

double branch_seconds(Peer & peer, int n, int prompt, int gen) {
    const double start = now();
    for (int i = 0; i < gen; i++) {
        for (int k = 0; k < n; k++) {
            peer.add(peer.token(), prompt + i, k, true);
        }
        peer.decode();
    }
    const double seconds = now() - start;
    for (int k = 0; k < n; k++) {
        peer.forget(k, prompt);
    }
    return seconds;
}

double prefill_seconds(Peer & peer, int tokens) {
    llama_memory_clear(peer.memory(), false);
    const double start = now();
    peer.prompt(0, tokens, true);
    return now() - start;
}

/// log Σ exp of a row; vectorised, so that the driver's own arithmetic does not slow the peer down.
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("O3", "fast-math")))
#endif
double log_sum_exp(const float * logits, int count) {
    float most = logits[0];
    for (int i = 1; i < count; i++) {
        most = logits[i] > most ? logits[i] : most;
    }
    float sum = 0.0f;
    for (int i = 0; i < count; i++) {
        sum += expf(logits[i] - most);
    }
    return double(most) + std::log(double(sum));
}

/// Scores `n` texts of `length` tokens; a batch holds as many as fit. The first token's probability comes from the prompt's
/// last row, which both sides leave out: a text of L tokens is L rows of which L - 1 predict a token of it.
double score_seconds(Peer & peer, int n, int prompt, int length, double & total) {
    std::vector<llama_token> ids(size_t(n) * size_t(length));
    for (auto & id : ids) {
        id = peer.token();
    }
    const int vocab = peer.vocab();
    const int together = std::max(1, peer.capacity / length);
    std::vector<double> parts(size_t(together) * size_t(length));
    const double start = now();
    for (int first = 0; first < n; first += together) {
        const int last = std::min(n, first + together);
        for (int k = first; k < last; k++) {
            for (int i = 0; i < length; i++) {
                peer.add(ids[size_t(k) * length + i], prompt + i, k, true);
            }
        }
        const int rows = peer.batch.n_tokens;
        peer.decode();
        const float * logits = llama_get_logits(peer.context);
        const llama_token * tokens = ids.data() + size_t(first) * length;
#pragma omp parallel for num_threads(peer.threads) schedule(static)
        for (int row = 0; row < rows; row++) {
            const float * at = logits + size_t(row) * vocab;
            const double z = log_sum_exp(at, vocab);
            parts[row] = (row + 1) % length == 0 ? 0.0 : double(at[tokens[row + 1]]) - z;
        }
        for (int row = 0; row < rows; row++) {
            total += parts[row];
        }
    }
    const double seconds = now() - start;
    for (int k = 0; k < n; k++) {
        peer.forget(k, prompt);
    }
    return seconds;
}

void write_states(Peer & peer, const Options & options) {
    std::vector<int> lengths;
    std::string rest = text(options, "lengths") + ",";
    for (size_t at; (at = rest.find(',')) != std::string::npos; rest.erase(0, at + 1)) {
        lengths.push_back(std::atoi(rest.substr(0, at).c_str()));
    }
    std::sort(lengths.begin(), lengths.end());
    int done = 0;
    for (int length : lengths) {
        if (length <= 0) {
            fail("--lengths takes counts of tokens");
        }
        peer.prompt(done, length, false);
        done = length;
        const std::vector<llama_token> tokens(size_t(length), 0);
        const std::string path = text(options, "state") + "." + std::to_string(length);
        const std::string part = path + ".part";
        if (llama_state_seq_save_file(peer.context, part.c_str(), 0, tokens.data(), tokens.size()) == 0 ||
            std::rename(part.c_str(), path.c_str()) != 0) {
            fail("cannot write " + path);
        }
    }
}

int rounded(int tokens) { return (tokens + 255) / 256 * 256; }

/// Positions that the cache must hold, and sequences.
void sizes(const Options & options, const std::string & kind, bool unified, int & positions, int & sequences) {
    const int prompt = number(options, "prompt", 512), gen = number(options, "gen", 64);
    const int each = kind == "score" ? number(options, "len", 128) : gen;
    sequences = 1;
    if (kind == "decode") {
        positions = number(options, "depth", 0) + std::max(gen, number(options, "warm", 0));
    } else if (kind == "prefill") {
        positions = std::max(prompt, number(options, "warm", 0));
    } else if (kind == "state") {
        positions = number(options, "depth", 0);
    } else {
        sequences = number(options, "n", 8);
        positions = unified ? prompt + sequences * each + 1 : sequences * rounded(prompt + each + 1);
    }
    positions = rounded(positions);
}

void open(Peer & peer, const Options & options, const std::string & kind, bool unified) {
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_params.use_extra_bufts = either(options, "repack", "on", "off");
    peer.threads = number(options, "threads", 1);
    peer.model = llama_model_load_from_file(text(options, "model").c_str(), model_params);
    if (peer.model == nullptr) {
        fail("cannot load the model " + text(options, "model"));
    }
    int positions = 0, sequences = 1;
    sizes(options, kind, unified, positions, sequences);
    llama_context_params params = llama_context_default_params();
    // Logits of a scored batch are kept for every token: 512 rows at once bound their memory.
    peer.capacity = kind == "score" ? std::max(512, number(options, "len", 128)) : 2048;
    params.n_ctx = uint32_t(positions);
    params.n_batch = uint32_t(peer.capacity);
    params.n_ubatch = 512;
    params.n_seq_max = uint32_t(sequences);
    params.n_threads = peer.threads;
    params.n_threads_batch = peer.threads;
    params.flash_attn_type =
        either(options, "flash", "on", "off") ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = either(options, "cache", "q8_0", "f16") ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
    params.kv_unified = unified;
    params.no_perf = true;
    peer.context = llama_init_from_model(peer.model, params);
    if (peer.context == nullptr) {
        fail("cannot make a context of " + std::to_string(positions) + " positions");
    }
    ggml_threadpool_params pool = ggml_threadpool_params_default(peer.threads);
    peer.pool = ggml_threadpool_new(&pool);
    if (peer.pool == nullptr) {
        fail("cannot make a thread pool");
    }
    llama_attach_threadpool(peer.context, peer.pool, nullptr);
    peer.batch = llama_batch_init(peer.capacity, 0, 1);
}

void close(Peer & peer) {
    llama_batch_free(peer.batch);
    llama_free(peer.context);
    ggml_threadpool_free(peer.pool);
    llama_model_free(peer.model);
    llama_backend_free();
}

void measure(Peer & peer, const Options & options, const std::string & kind, bool unified) {
    const int n = number(options, "n", 8), prompt = number(options, "prompt", 512);
    const int gen = number(options, "gen", 64), warm = number(options, "warm", 0), length = number(options, "len", 128);
    double seconds = 0.0, total = 0.0, ignored = 0.0, before = 0.0;
    int tokens = 0;
    if (kind == "decode") {
        const int depth = number(options, "depth", 0);
        cached_prompt(peer, options, depth);
        decode_seconds(peer, depth, warm);
        before = round_trip(peer.threads);
        seconds = decode_seconds(peer, depth, gen);
        tokens = gen;
    } else if (kind == "branches" || kind == "score") {
        cached_prompt(peer, options, prompt);
        spread_prompt(peer, n, prompt, unified);
        if (kind == "branches") {
            branch_seconds(peer, n, prompt, warm);
            before = round_trip(peer.threads);
            seconds = branch_seconds(peer, n, prompt, gen);
            tokens = n * gen;
        } else {
            if (warm > 0) {
                score_seconds(peer, std::min(n, warm), prompt, length, ignored);
            }
            before = round_trip(peer.threads);
            seconds = score_seconds(peer, n, prompt, length, total);
            tokens = n * length;
            if (!(total < 0.0 && total > -1e12)) {
                fail("the log-probabilities are not numbers");
            }
        }
    } else {
        if (warm > 0) {
            prefill_seconds(peer, warm);
        }
        before = round_trip(peer.threads);
        seconds = prefill_seconds(peer, prompt);
        tokens = prompt;
    }
    const double after = round_trip(peer.threads);
    std::printf("{\"driver\": \"%s\", \"tokens\": %d, \"seconds\": %.9f, \"logprob\": %.3f", kind.c_str(), tokens, seconds, total);
    if (before > 0.0) {
        std::printf(", \"round_trip_seconds\": [%.3e, %.3e]", before, after);
    }
    std::printf("}\n");
}

void quiet(ggml_log_level level, const char * line, void *) {
    if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) {
        std::fputs(line, stderr);
    }
}

} // namespace

int main(int argc, char ** argv) {
    try {
        const Options options = read_options(argc, argv);
        const std::string kind = text(options, "case");
        if (kind != "decode" && kind != "branches" && kind != "prefill" && kind != "score" && kind != "state") {
            fail("--case is decode, branches, prefill, score or state");
        }
        const bool unified = either(options, "kv", "unified", "split");
        llama_log_set(quiet, nullptr);
        llama_backend_init();
        Peer peer;
        open(peer, options, kind, unified);
        if (kind == "state") {
            write_states(peer, options);
        } else {
            measure(peer, options, kind, unified);
        }
        close(peer);
    } catch (const std::exception & error) {
        std::fprintf(stderr, "peer-driver: %s\n", error.what());
        return 1;
    }
    return 0;
}
