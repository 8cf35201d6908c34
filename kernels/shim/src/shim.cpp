// The fibers, the scheduler and the checks behind shim.h.
#include "shim.h"

#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr int WARP = 32;
constexpr size_t STACK = 128 << 10;
constexpr size_t SHARED_MOST = 228 << 10;
constexpr size_t STATIC_MOST = 48 << 10;
constexpr size_t EXCHANGE = 64;

struct Kernel {
    int threads;
    void (*call)(void (*)(), const void* const*);
    void (*kernel)();
    std::string kinds;
};
std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> table;
    return table;
}

// What is known of a few neighbouring bytes: who touched them last, and when. Moments count up over all blocks.
struct Mark {
    uint32_t writer, write_moment, write_warp_moment;
    uint32_t reader, read_moment, read_warp_moment;
};
constexpr uint32_t NOBODY = ~0u;
// Several readers, of one warp (its first thread is kept) or of several.
constexpr uint32_t MANY = 1u << 30;
constexpr uint32_t ACROSS = 1u << 31;
// Another block has read it, too.
constexpr uint32_t FOREIGN = 1u << 29;
constexpr uint32_t FLAGS = MANY | ACROSS | FOREIGN;

struct Region {
    uintptr_t start, end;
    size_t grain;
    int mode;  // 0 read, 1 written before it is read, 2 both
    std::string name;
    std::vector<Mark> marks;
    std::vector<bool> written;
};

enum class Wait { Ready, Block, Warp, Done };

struct Later {
    void* to;
    const void* from;
    size_t bytes;
};

struct Fiber {
    void* stack_pointer = nullptr;
    ucontext_t context;
    char* stack = nullptr;
    Wait wait = Wait::Ready;
    const char* file = nullptr;
    int line = 0;
    unsigned thread = 0;
    unsigned parity = 0;
    std::vector<Later> open;
    std::vector<std::vector<Later>> committed;
};

struct State {
    const Kernel* kernel = nullptr;
    const void* const* params = nullptr;
    shim::Index grid, block, at;
    unsigned threads = 0;
    std::vector<Fiber> fibers;
    Fiber* now = nullptr;
    void* scheduler_pointer = nullptr;
    ucontext_t scheduler;
    std::vector<Region> regions;
    char* shared = nullptr;
    size_t shared_used = 0, dynamic = 0;
    std::map<const char*, size_t> shared_at;
    std::vector<Mark> shared_marks;
    std::vector<char> slots;
    std::vector<uint32_t> warp_moment;
    uint32_t moment = 0, block_moment = 0;
    std::string name, fault;
    uint64_t random = 1;
};
thread_local State* state = nullptr;

uint64_t draw(State& s) {
    s.random ^= s.random << 13;
    s.random ^= s.random >> 7;
    s.random ^= s.random << 17;
    return s.random;
}

#if defined(__x86_64__)
extern "C" void shim_switch(void** save, void* load);
asm(R"(
.text
.globl shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");
#endif

void to_scheduler(State& s) {
#if defined(__x86_64__)
    shim_switch(&s.now->stack_pointer, s.scheduler_pointer);
#else
    swapcontext(&s.now->context, &s.scheduler);
#endif
}

[[gnu::format(printf, 1, 2)]] void fail(const char* format, ...) {
    State& s = *state;
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (s.fault.empty()) {
        s.fault = "kernel " + s.name + ", block (" + std::to_string(s.at.x) + ", " + std::to_string(s.at.y) + ", " +
                  std::to_string(s.at.z) + ")";
        if (s.now) s.fault += ", thread " + std::to_string(s.now->thread);
        s.fault += std::string(": ") + text;
    }
    if (s.now) {
        s.now->wait = Wait::Done;
        to_scheduler(s);
    }
}

void fiber_main() {
    State& s = *state;
    s.kernel->call(s.kernel->kernel, s.params);
    if (!s.now->open.empty() || !s.now->committed.empty()) fail("ends while copies are under way that it never waited for");
    s.now->wait = Wait::Done;
    to_scheduler(s);
    __builtin_unreachable();
}

void prepare(Fiber& f) {
    if (!f.stack) {
        void* memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        f.stack = static_cast<char*>(memory);
    }
#if defined(__x86_64__)
    // The address to return to, below which lie the six registers; the stack is as after a call.
    void** top = reinterpret_cast<void**>(f.stack + STACK) - 2;
    *top = reinterpret_cast<void*>(&fiber_main);
    top[1] = nullptr;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f.stack_pointer = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, fiber_main, 0);
#endif
    f.wait = Wait::Ready;
    f.parity = 0;
    f.open.clear();
    f.committed.clear();
}

void enter(State& s, Fiber& f) {
    s.now = &f;
#if defined(__x86_64__)
    shim_switch(&s.scheduler_pointer, f.stack_pointer);
#else
    swapcontext(&s.scheduler, &f.context);
#endif
    s.now = nullptr;
}

// Lets waiting threads go on where all that they wait for have come; reports what can never go on.
bool release(State& s) {
    bool any = false;
    for (unsigned first = 0; first < s.threads; first += WARP) {
        unsigned waiting = 0;
        bool same = true;
        const Fiber* one = nullptr;
        for (unsigned t = first; t < first + WARP; t++) {
            const Fiber& f = s.fibers[t];
            if (f.wait != Wait::Warp) continue;
            waiting++;
            if (!one) one = &f;
            same = same && one->line == f.line && !strcmp(one->file, f.file);
        }
        if (waiting == WARP && same) {
            for (unsigned t = first; t < first + WARP; t++) s.fibers[t].wait = Wait::Ready;
            any = true;
        }
    }
    if (any) return true;
    unsigned waiting = 0, done = 0;
    bool same = true;
    const Fiber* one = nullptr;
    const Fiber* other = nullptr;
    for (unsigned t = 0; t < s.threads; t++) {
        const Fiber& f = s.fibers[t];
        if (f.wait == Wait::Done) {
            done++;
            continue;
        }
        if (f.wait == Wait::Block) waiting++;
        if (!one) one = &f;
        if (one->wait != f.wait || one->line != f.line || strcmp(one->file, f.file)) {
            same = false;
            other = &f;
        }
    }
    if (done == s.threads) return false;
    if (waiting == s.threads && same) {
        s.moment++;
        for (unsigned t = 0; t < s.threads; t++) s.fibers[t].wait = Wait::Ready;
        return true;
    }
    const char* what = one->wait == Wait::Block ? "the block" : "its warp";
    if (other)
        fail("divergent barrier: thread %u waits for %s at %s:%d, thread %u at %s:%d, %u threads have ended", one->thread,
             what, one->file, one->line, other->thread, other->file, other->line, done);
    else
        fail("divergent barrier: %u threads wait for %s at %s:%d and %u have ended", s.threads - done, what, one->file,
             one->line, done);
    return false;
}

void run_block(State& s) {
    s.shared_at.clear();
    memset(s.shared, 0xff, s.dynamic);
    s.shared_used = s.dynamic;
    s.block_moment = ++s.moment;
    for (unsigned t = 0; t < s.threads; t++) {
        s.fibers[t].thread = t;
        prepare(s.fibers[t]);
    }
    std::vector<unsigned> order(s.threads);
    for (unsigned t = 0; t < s.threads; t++) order[t] = t;
    do {
        for (unsigned t = s.threads; t > 1; t--) std::swap(order[t - 1], order[draw(s) % t]);
        for (unsigned t : order) {
            Fiber& f = s.fibers[t];
            if (f.wait == Wait::Ready) enter(s, f);
            if (!s.fault.empty()) return;
        }
    } while (release(s));
}

// Whether a barrier lies between what `who` did then and now. Blocks have no order among themselves.
bool separated(State& s, uint32_t who, uint32_t moment, uint32_t warp_moment) {
    if (who == NOBODY) return true;
    if (moment < s.block_moment) return false;
    if (moment != s.moment) return !(who & FOREIGN);
    uint32_t thread = who & ~FLAGS;
    if (who & (ACROSS | FOREIGN)) return false;
    if (!(who & MANY) && thread == s.now->thread) return true;
    return thread / WARP == s.now->thread / WARP && warp_moment != s.warp_moment[thread / WARP];
}

void touch(State& s, Mark& m, bool write, const char* what, uintptr_t place) {
    uint32_t me = s.now->thread, warp_moment = s.warp_moment[me / WARP];
    const char* where = m.write_moment < s.block_moment ? "of another block wrote" : "wrote without a barrier between";
    if (!separated(s, m.writer, m.write_moment, m.write_warp_moment))
        return fail("race: %s byte %zu of %s, which thread %u %s", write ? "writes" : "reads", size_t(place), what, m.writer,
                    where);
    if (write) {
        where = m.read_moment < s.block_moment || (m.reader & FOREIGN) ? "of another block read" : "read without a barrier between";
        if (!separated(s, m.reader, m.read_moment, m.read_warp_moment))
            return fail("race: writes byte %zu of %s, which thread %u %s", size_t(place), what, m.reader & ~FLAGS, where);
        m.writer = me, m.write_moment = s.moment, m.write_warp_moment = warp_moment;
        return;
    }
    uint32_t foreign = m.reader == NOBODY ? 0 : m.read_moment < s.block_moment ? FOREIGN : m.reader & FOREIGN;
    uint32_t first = m.reader & ~FLAGS;
    if (m.reader == NOBODY || m.read_moment != s.moment || (m.reader & ~FOREIGN) == me) m.reader = me | foreign;
    else m.reader = first | MANY | foreign | (m.reader & ACROSS) | (first / WARP != me / WARP ? ACROSS : 0);
    m.read_moment = s.moment, m.read_warp_moment = warp_moment;
}

void check(uintptr_t at, size_t bytes, bool write, bool atomic = false) {
    State* current = state;
    if (!current || !current->now) return;
    State& s = *current;
    uintptr_t stack = uintptr_t(s.now->stack);
    if (at >= stack && at + bytes <= stack + STACK) return;
    if (bytes <= 16 && at % bytes != 0) return fail("%s %zu bytes at an address that is no multiple", write ? "writes" : "reads", bytes);
    uintptr_t shared = uintptr_t(s.shared);
    if (at >= shared && at < shared + SHARED_MOST) {
        if (at + bytes > shared + s.shared_used) return fail("%s beyond its shared memory", write ? "writes" : "reads");
        if (!atomic)
            for (uintptr_t b = (at - shared) / 2; b <= (at + bytes - 1 - shared) / 2; b++)
                {
                    Mark& m = s.shared_marks[b];
                    // Each block has its own.
                    if (m.write_moment < s.block_moment) m.writer = NOBODY;
                    if (m.read_moment < s.block_moment) m.reader = NOBODY;
                    touch(s, m, write, "shared memory", b * 2);
                }
        return;
    }
    for (Region& r : s.regions) {
        if (at < r.start || at >= r.end) continue;
        if (at + bytes > r.end) break;
        if (write && r.mode == 0) return fail("writes argument %s, which is only read", r.name.c_str());
        size_t from = (at - r.start) / r.grain, to = (at + bytes - 1 - r.start) / r.grain;
        for (size_t g = from; g <= to; g++) {
            if (write || atomic) r.written[g] = true;
            else if (r.mode == 1 && !r.written[g]) return fail("reads element %zu of argument %s before it was written", g, r.name.c_str());
            if (r.mode != 0 && !atomic) touch(s, r.marks[g], write, r.name.c_str(), g * r.grain);
        }
        return;
    }
    const Region* near = nullptr;
    intptr_t least = 4096;
    for (const Region& r : s.regions) {
        intptr_t beyond = intptr_t(at + bytes) - intptr_t(r.end), before = intptr_t(r.start) - intptr_t(at);
        intptr_t distance = beyond > 0 ? beyond : before;
        if (distance < least) near = &r, least = distance;
    }
    if (near)
        return fail("%s %zu bytes, %td bytes %s of argument %s", write ? "writes" : "reads", bytes, least,
                    at >= near->start ? "beyond the end" : "before the start", near->name.c_str());
    fail("%s %zu bytes outside its arguments, its shared memory and its stack", write ? "writes" : "reads", bytes);
}

}  // namespace

namespace shim {

Entry::Entry(const char* name, int threads, void (*call)(void (*)(), const void* const*), void (*kernel)(),
             void (*kinds)(char*)) {
    char text[1024];
    kinds(text);
    kernels()[name] = Kernel{threads, call, kernel, text};
}

Index thread_index() {
    return Index{state->now->thread, 0, 0};
}
Index block_index() {
    return state->at;
}
Index grid_size() {
    return state->grid;
}
Index block_size() {
    return state->block;
}
int lane() {
    return int(state->now->thread % WARP);
}

void* shared(const char* key, size_t bytes) {
    State& s = *state;
    if (!key) return s.shared;
    auto found = s.shared_at.find(key);
    if (found == s.shared_at.end()) {
        size_t at = (s.shared_used + 15) / 16 * 16;
        if (at + bytes - s.dynamic > STATIC_MOST) fail("has %zu bytes of shared memory, and %zu is the most", at + bytes, STATIC_MOST);
        memset(s.shared + at, 0xff, bytes);
        s.shared_used = at + bytes;
        found = s.shared_at.emplace(key, at).first;
    }
    return s.shared + found->second;
}

static void wait(Wait what, const char* file, int line) {
    State& s = *state;
    s.now->wait = what;
    s.now->file = file;
    s.now->line = line;
    to_scheduler(s);
}

void barrier(const char* file, int line) {
    wait(Wait::Block, file, line);
}

void warp_barrier(const char* file, int line) {
    State& s = *state;
    unsigned warp = s.now->thread / WARP;
    uint32_t before = s.warp_moment[warp];
    wait(Wait::Warp, file, line);
    // The first lane to go on begins the warp's next moment; none can wait again before all went on.
    if (s.warp_moment[warp] == before) s.warp_moment[warp]++;
}

void warp_all(const void* mine, size_t bytes, void* all, const char* file, int line) {
    State& s = *state;
    if (bytes > EXCHANGE) fail("exchanges more than %zu bytes", EXCHANGE);
    Fiber& me = *s.now;
    // A lane that is ahead writes to the other half, and cannot come to this one again before all have read it.
    char* warp = s.slots.data() + (me.thread / WARP * 2 + me.parity) * WARP * EXCHANGE;
    me.parity ^= 1;
    memcpy(warp + me.thread % WARP * EXCHANGE, mine, bytes);
    wait(Wait::Warp, file, line);
    for (int i = 0; i < WARP; i++) memcpy(static_cast<char*>(all) + size_t(i) * bytes, warp + size_t(i) * EXCHANGE, bytes);
}

void atomic(const void* at, size_t bytes) {
    check(uintptr_t(at), bytes, false, true);
}

void copy_later(void* to, const void* from, size_t bytes) {
    check(uintptr_t(from), bytes, false);
    // The bytes may arrive at any time from now on, and until they are waited for nobody can read what was there.
    check(uintptr_t(to), bytes, true);
    memset(to, 0xff, bytes);
    state->now->open.push_back({to, from, bytes});
}

void copy_commit() {
    state->now->committed.push_back(std::move(state->now->open));
    state->now->open.clear();
}

void copy_wait(int pending) {
    Fiber& f = *state->now;
    while (f.committed.size() > size_t(pending)) {
        for (const Later& l : f.committed.front()) {
            check(uintptr_t(l.to), l.bytes, true);
            memcpy(l.to, l.from, l.bytes);
        }
        f.committed.erase(f.committed.begin());
    }
}

}  // namespace shim

#define SIZED(n)                                                                                                      \
    extern "C" void __asan_load##n##_noabort(uintptr_t at) { check(at, n, false); }                                   \
    extern "C" void __asan_store##n##_noabort(uintptr_t at) { check(at, n, true); }
SIZED(1) SIZED(2) SIZED(4) SIZED(8) SIZED(16)
extern "C" void __asan_loadN_noabort(uintptr_t at, size_t bytes) {
    check(at, bytes, false);
}
extern "C" void __asan_storeN_noabort(uintptr_t at, size_t bytes) {
    check(at, bytes, true);
}
extern "C" void __asan_handle_no_return() {}
extern "C" void __asan_before_dynamic_init(const char*) {}
extern "C" void __asan_after_dynamic_init() {}

// An argument of a launch, as the library's user describes it.
struct ShimRegion {
    void* start;
    size_t bytes, grain;
    int mode;
    const char* name;
};

// Kinds of an entry point's parameters: p pointer, i and l integers, f and d floats, sN a structure of N bytes. Null if there
// is no such entry point.
extern "C" const char* shim_kinds(const char* name, int* threads) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return nullptr;
    *threads = found->second.threads;
    return found->second.kinds.c_str();
}

// Names of all entry points, one after the other.
extern "C" const char* shim_name(size_t i) {
    auto at = kernels().begin();
    std::advance(at, std::min(i, kernels().size()));
    return at == kernels().end() ? nullptr : at->first.c_str();
}

// Runs an entry point. Returns the length of the report of what went wrong, 0 if nothing did.
extern "C" size_t shim_launch(const char* name, const unsigned* grid, unsigned threads, size_t dynamic,
                              const void* const* params, const ShimRegion* regions, size_t count, uint64_t seed,
                              char* report, size_t room) {
    static thread_local State own;
    State& s = own;
    state = &s;
    auto found = kernels().find(name);
    s.fault.clear();
    s.name = name;
    s.now = nullptr;
    if (found == kernels().end()) fail("does not exist");
    else if (threads == 0 || threads % WARP != 0 || int(threads) > found->second.threads)
        fail("was declared for %d threads and launched with %u", found->second.threads, threads);
    else if (dynamic > SHARED_MOST - STATIC_MOST) fail("takes %zu bytes of dynamic shared memory", dynamic);
    else {
        s.kernel = &found->second;
        s.params = params;
        s.grid = {grid[0], grid[1], grid[2]};
        s.block = {threads, 1, 1};
        s.threads = threads;
        s.dynamic = dynamic;
        s.random = seed * 0x9e3779b97f4a7c15u | 1;
        if (!s.shared) {
            void* memory = mmap(nullptr, SHARED_MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            s.shared = static_cast<char*>(memory);
        }
        const Mark fresh = {NOBODY, 0, 0, NOBODY, 0, 0};
        s.moment = 0;
        s.shared_marks.assign(SHARED_MOST / 2, fresh);
        if (s.fibers.size() < threads) s.fibers.resize(threads);
        s.slots.assign(threads / WARP * 2 * WARP * EXCHANGE, 0);
        s.warp_moment.assign(threads / WARP, 0);
        s.regions.clear();
        for (size_t i = 0; i < count; i++) {
            const ShimRegion& r = regions[i];
            Region region{uintptr_t(r.start), uintptr_t(r.start) + r.bytes, r.grain, r.mode, r.name, {}, {}};
            region.marks.assign(r.mode ? r.bytes / r.grain + 1 : 0, fresh);
            region.written.assign(r.mode ? r.bytes / r.grain + 1 : 0, false);
            s.regions.push_back(std::move(region));
        }
        uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
        std::vector<uint64_t> order(blocks);
        for (uint64_t b = 0; b < blocks; b++) order[b] = b;
        for (uint64_t b = blocks; b > 1; b--) std::swap(order[b - 1], order[draw(s) % b]);
        for (uint64_t b : order) {
            s.at = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
            run_block(s);
            if (!s.fault.empty()) break;
        }
    }
    state = nullptr;
    size_t length = std::min(s.fault.size(), room ? room - 1 : 0);
    memcpy(report, s.fault.data(), length);
    if (room) report[length] = 0;
    return length;
}
