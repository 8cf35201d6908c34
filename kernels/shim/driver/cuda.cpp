// A CUDA driver whose devices are this processor, for tests of what calls one: the functions that the runtime uses, with their rules.
//
// Work is done as late as the driver's rules allow: when a stream or an event is waited for, in the order of its stream. Bytes in
// pinned memory are therefore read when a copy runs, as a GPU may do, and not when it is asked for. Streams whose bit, in the order of
// their making, is set in SHIM_EAGER do theirs as early as possible instead. While a stream is captured, what the driver forbids then
// fails. Kernels are those of the shim; every address that they touch must lie in memory that was allocated.
// The environment says what the devices are: SHIM_DEVICES (their number, 1), SHIM_CAPABILITY (such as 9.0), SHIM_MEMORY (bytes),
// SHIM_LARGEST (bytes that can be had in one piece, SHIM_MEMORY), SHIM_DRIVER (such as 12040), SHIM_INIT (what cuInit answers). What is
// left when the last context is released goes to standard error.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

struct ShimRegion {
    void* start;
    size_t bytes, grain;
    int mode;
    const char* name;
};
using Kinds = const char* (*)(const char*, int*);
using Run = size_t (*)(const char*, const unsigned*, unsigned, size_t, const void* const*, const ShimRegion*, size_t,
                       uint64_t, char*, size_t);
extern "C" const char* shim_kinds(const char*, int*);
extern "C" size_t shim_launch(const char*, const unsigned*, unsigned, size_t, const void* const*, const ShimRegion*,
                              size_t, uint64_t, char*, size_t);

namespace {

enum : int {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
    STREAM_CAPTURE_UNSUPPORTED = 900,
};

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

int major_minor(bool major) {
    const char* text = getenv("SHIM_CAPABILITY");
    int a = 9, b = 0;
    if (text) sscanf(text, "%d.%d", &a, &b);
    return major ? a : b;
}

using Work = std::function<int()>;

struct Module {
    Kinds kinds;
    Run run;
};

struct Function {
    Module* module;
    std::string name, kinds;
    bool launched = false;
};

// The numbers of works count up, so that an event knows which it waits for.
struct Stream {
    std::deque<Work> queue;
    uint64_t given = 0, done = 0;
    std::vector<Work>* capture = nullptr;
    bool eager = false;
};

struct Event {
    Stream* stream = nullptr;
    uint64_t after = 0;
    std::chrono::steady_clock::time_point at;
};

struct Graph {
    std::vector<Work> works;
};

std::recursive_mutex lock;
bool initialised = false;
int failed = OK;
int contexts = 0;
uint64_t seed = 0;
char context;
std::map<uintptr_t, size_t> memory, pinned;
std::set<Stream*> streams;
std::set<Event*> events;
std::set<Module*> modules;
std::set<Function*> functions;
std::set<Graph*> graphs, executables;
thread_local void* current = nullptr;

// How a call begins: what it needs, and whether it may happen while a stream is captured.
enum Needs { NOTHING, DRIVER, CONTEXT, CONTEXT_OUTSIDE_CAPTURE };

bool capturing() {
    for (Stream* s : streams)
        if (s->capture) return true;
    return false;
}

int begin(Needs needs) {
    if (needs >= DRIVER && !initialised) return NOT_INITIALIZED;
    if (needs >= CONTEXT && (!contexts || current != &context)) return INVALID_CONTEXT;
    if (needs >= CONTEXT && failed) return failed;
    if (needs == CONTEXT_OUTSIDE_CAPTURE && capturing()) return STREAM_CAPTURE_UNSUPPORTED;
    return OK;
}

#define BEGIN(needs)                                   \
    std::lock_guard<std::recursive_mutex> guard(lock); \
    if (int error = begin(needs)) return error

// Whether the bytes lie in one allocation.
bool inside(const std::map<uintptr_t, size_t>& all, uintptr_t at, size_t bytes) {
    auto next = all.upper_bound(at);
    if (next == all.begin()) return false;
    auto [start, size] = *std::prev(next);
    return at + bytes <= start + size;
}

int drain(Stream* s, uint64_t until) {
    while (s->done < until && !s->queue.empty()) {
        Work work = std::move(s->queue.front());
        s->queue.pop_front();
        s->done++;
        if (int error = work()) return failed = error;
    }
    return OK;
}

int drain_all() {
    for (Stream* s : streams)
        if (int error = drain(s, s->given)) return error;
    return OK;
}

int give(Stream* s, Work work) {
    if (!streams.count(s)) return INVALID_HANDLE;
    if (s->capture) {
        s->capture->push_back(std::move(work));
    } else {
        s->queue.push_back(std::move(work));
        s->given++;
    }
    return s->eager ? drain(s, s->given) : int(OK);
}

template <class T>
int destroy(std::set<T*>& all, T* one) {
    if (!all.erase(one)) return INVALID_HANDLE;
    delete one;
    return OK;
}

size_t size_of_kind(const char*& kind) {
    switch (*kind++) {
        case 'i': case 'f': return 4;
        case 's': return strtoul(kind, const_cast<char**>(&kind), 10);
        default: return 8;
    }
}

int launch(Function* f, const unsigned (&grid)[3], unsigned threads, unsigned dynamic,
           const std::vector<std::vector<uint64_t>>& params) {
    std::vector<const void*> pointers;
    for (auto& p : params) pointers.push_back(p.data());
    std::vector<ShimRegion> regions;
    for (auto [start, bytes] : memory)
        regions.push_back({reinterpret_cast<void*>(start), bytes, 1, 2, "memory of the device"});
    char report[2048];
    size_t length = f->module->run(f->name.c_str(), grid, threads, dynamic, pointers.data(), regions.data(),
                                   regions.size(), ++seed, report, sizeof report);
    if (!length) return OK;
    fprintf(stderr, "driver: %s: %.*s\n", f->name.c_str(), int(length), report);
    return LAUNCH_FAILED;
}

int load(const char* image, Module** out) {
    if (memcmp(image, "SHIMK", 6) == 0) {
        modules.insert(*out = new Module{shim_kinds, shim_launch});
        return OK;
    }
    if (memcmp(image, "SHIMF", 6) != 0) return INVALID_IMAGE;
    uint64_t bytes;
    memcpy(&bytes, image + 8, 8);
    int file = memfd_create("module", 0);
    if (file < 0 || write(file, image + 16, bytes) != ssize_t(bytes)) return OUT_OF_MEMORY;
    // The file stays open: a library that is opened by a name once more is the first of that name.
    void* library = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "driver: %s\n", dlerror());
        return INVALID_IMAGE;
    }
    auto kinds = reinterpret_cast<Kinds>(dlsym(library, "shim_kinds"));
    auto run = reinterpret_cast<Run>(dlsym(library, "shim_launch"));
    modules.insert(*out = new Module{kinds, run});
    return OK;
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    int answer = int(setting("SHIM_INIT", setting("SHIM_DEVICES", 1) ? OK : NO_DEVICE));
    initialised = answer == OK;
    return answer;
}

int cuDriverGetVersion(int* version) {
    *version = int(setting("SHIM_DRIVER", 12040));
    // A stub answers so to everything.
    return setting("SHIM_INIT", OK) == 34 ? 34 : int(OK);
}

int cuGetErrorName(int error, const char** text) {
    static const std::map<int, const char*> names = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},     {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"}, {34, "CUDA_ERROR_STUB_LIBRARY"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},             {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},     {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},   {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {NOT_READY, "CUDA_ERROR_NOT_READY"},             {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
        {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},      {STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    };
    auto found = names.find(error);
    *text = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
    return OK;
}

int cuGetErrorString(int error, const char** text) {
    return cuGetErrorName(error, text);
}

int cuDeviceGetCount(int* count) {
    BEGIN(DRIVER);
    *count = int(setting("SHIM_DEVICES", 1));
    return OK;
}

int cuDeviceGet(int* device, int ordinal) {
    BEGIN(DRIVER);
    *device = ordinal;
    return ordinal < setting("SHIM_DEVICES", 1) ? OK : INVALID_DEVICE;
}

int cuDeviceGetName(char* name, int room, int device) {
    BEGIN(DRIVER);
    snprintf(name, size_t(room), "Shim %d", device);
    return OK;
}

int cuDeviceTotalMem_v2(size_t* bytes, int) {
    BEGIN(DRIVER);
    *bytes = size_t(setting("SHIM_MEMORY", 4L << 30));
    return OK;
}

// Compute capability, and for the rest what a small device could have.
int cuDeviceGetAttribute(int* value, int attribute, int) {
    BEGIN(DRIVER);
    switch (attribute) {
        case 75: *value = major_minor(true); break;
        case 76: *value = major_minor(false); break;
        case 13: case 36: *value = 1'000'000; break;
        case 16: *value = 4; break;
        case 37: *value = 256; break;
        default: return INVALID_VALUE;
    }
    return OK;
}

int cuDevicePrimaryCtxRetain(void** out, int) {
    BEGIN(DRIVER);
    contexts++;
    *out = &context;
    return OK;
}

int cuDevicePrimaryCtxRelease_v2(int) {
    BEGIN(DRIVER);
    if (!contexts) return INVALID_CONTEXT;
    if (--contexts) return OK;
    size_t left[] = {memory.size(), pinned.size(), streams.size(), events.size(), modules.size(), graphs.size(), executables.size()};
    const char* names[] = {"blocks of memory", "pinned blocks", "streams", "events", "modules", "graphs", "executable graphs"};
    for (int i = 0; i < 7; i++)
        if (left[i]) fprintf(stderr, "driver: %zu %s are left\n", left[i], names[i]);
    return OK;
}

int cuCtxSetCurrent(void* context) {
    BEGIN(DRIVER);
    current = context;
    return OK;
}

int cuMemGetInfo_v2(size_t* available, size_t* total) {
    BEGIN(CONTEXT);
    *total = size_t(setting("SHIM_MEMORY", 4L << 30));
    size_t used = 0;
    for (auto [_, bytes] : memory) used += bytes;
    *available = *total - used;
    return OK;
}

// What is new holds neither zeros nor numbers.
int cuMemAlloc_v2(uintptr_t* out, size_t bytes) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    size_t available, total;
    cuMemGetInfo_v2(&available, &total);
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > available || bytes > size_t(setting("SHIM_LARGEST", long(total)))) return OUT_OF_MEMORY;
    void* made = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!made) return OUT_OF_MEMORY;
    memset(made, 0xff, bytes);
    memory[*out = reinterpret_cast<uintptr_t>(made)] = bytes;
    return OK;
}

int cuMemFree_v2(uintptr_t at) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (int error = drain_all()) return error;
    if (!memory.erase(at)) return INVALID_VALUE;
    free(reinterpret_cast<void*>(at));
    return OK;
}

int cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    *out = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*out) return OUT_OF_MEMORY;
    pinned[reinterpret_cast<uintptr_t>(*out)] = bytes;
    return OK;
}

int cuMemFreeHost(void* at) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (int error = drain_all()) return error;
    if (!pinned.erase(reinterpret_cast<uintptr_t>(at))) return INVALID_VALUE;
    free(at);
    return OK;
}

int cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, Stream* s) {
    BEGIN(CONTEXT);
    if (!inside(memory, to, bytes)) return INVALID_VALUE;
    auto target = reinterpret_cast<void*>(to);
    if (inside(pinned, reinterpret_cast<uintptr_t>(from), bytes)) return give(s, [=] { return memcpy(target, from, bytes), OK; });
    if (capturing()) return STREAM_CAPTURE_UNSUPPORTED;
    std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return give(s, [=] { return memcpy(target, staged.data(), bytes), OK; });
}

int cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, Stream* s) {
    BEGIN(CONTEXT);
    if (!inside(memory, from, bytes)) return INVALID_VALUE;
    auto source = reinterpret_cast<const void*>(from);
    bool late = inside(pinned, reinterpret_cast<uintptr_t>(to), bytes);
    if (!late && capturing()) return STREAM_CAPTURE_UNSUPPORTED;
    int error = give(s, [=] { return memcpy(to, source, bytes), OK; });
    return error || late ? error : drain(s, s->given);
}

int cuMemsetD8Async(uintptr_t at, unsigned char value, size_t bytes, Stream* s) {
    BEGIN(CONTEXT);
    if (!inside(memory, at, bytes)) return INVALID_VALUE;
    return give(s, [=] { return memset(reinterpret_cast<void*>(at), value, bytes), OK; });
}

int cuStreamCreate(Stream** out, unsigned) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    static int made = 0;
    streams.insert(*out = new Stream);
    (*out)->eager = setting("SHIM_EAGER", 0) >> made++ & 1;
    return OK;
}

int cuStreamSynchronize(Stream* s) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    return streams.count(s) ? drain(s, s->given) : int(INVALID_HANDLE);
}

int cuStreamDestroy_v2(Stream* s) {
    BEGIN(CONTEXT);
    if (!streams.count(s)) return INVALID_HANDLE;
    if (int error = drain(s, s->given)) return error;
    return destroy(streams, s);
}

int cuStreamWaitEvent(Stream* s, Event* e, unsigned) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (!events.count(e)) return INVALID_HANDLE;
    Stream* other = e->stream;
    uint64_t after = e->after;
    if (!other) return OK;
    return give(s, [=] { return streams.count(other) ? drain(other, after) : int(OK); });
}

int cuStreamBeginCapture_v2(Stream* s, int) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (!streams.count(s)) return INVALID_HANDLE;
    s->capture = new std::vector<Work>;
    return OK;
}

int cuStreamEndCapture(Stream* s, Graph** out) {
    BEGIN(CONTEXT);
    if (!streams.count(s) || !s->capture) return INVALID_VALUE;
    graphs.insert(*out = new Graph{std::move(*s->capture)});
    delete std::exchange(s->capture, nullptr);
    return OK;
}

int cuGraphInstantiateWithFlags(Graph** out, Graph* graph, unsigned long long) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (!graphs.count(graph)) return INVALID_HANDLE;
    executables.insert(*out = new Graph(*graph));
    return OK;
}

int cuGraphDestroy(Graph* graph) {
    BEGIN(CONTEXT);
    return destroy(graphs, graph);
}

int cuGraphExecDestroy(Graph* graph) {
    BEGIN(CONTEXT);
    if (int error = drain_all()) return error;
    return destroy(executables, graph);
}

int cuGraphLaunch(Graph* graph, Stream* s) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (!executables.count(graph)) return INVALID_HANDLE;
    for (auto& work : graph->works)
        if (int error = give(s, work)) return error;
    return OK;
}

int cuEventCreate(Event** out, unsigned) {
    BEGIN(CONTEXT);
    events.insert(*out = new Event);
    return OK;
}

int cuEventDestroy_v2(Event* e) {
    BEGIN(CONTEXT);
    if (int error = drain_all()) return error;
    return destroy(events, e);
}

int cuEventRecord(Event* e, Stream* s) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (!events.count(e)) return INVALID_HANDLE;
    if (int error = give(s, [e] { return e->at = std::chrono::steady_clock::now(), OK; })) return error;
    e->stream = s;
    e->after = s->given;
    return OK;
}

int cuEventSynchronize(Event* e) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (!events.count(e)) return INVALID_HANDLE;
    return e->stream ? drain(e->stream, e->after) : int(OK);
}

int cuEventElapsedTime(float* ms, Event* from, Event* to) {
    BEGIN(CONTEXT);
    for (Event* e : {from, to}) {
        if (!events.count(e) || !e->stream) return INVALID_HANDLE;
        if (e->stream->done < e->after) return NOT_READY;
    }
    *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count();
    return OK;
}

int cuModuleLoadData(Module** out, const void* image) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    return load(static_cast<const char*>(image), out);
}

// Fibers of a library may still have been set up, so it stays in the process.
int cuModuleUnload(Module* module) {
    BEGIN(CONTEXT_OUTSIDE_CAPTURE);
    if (int error = drain_all()) return error;
    for (auto it = functions.begin(); it != functions.end();) {
        if ((*it)->module == module) {
            delete *it;
            it = functions.erase(it);
        } else {
            ++it;
        }
    }
    return destroy(modules, module);
}

int cuModuleGetFunction(Function** out, Module* module, const char* name) {
    BEGIN(CONTEXT);
    if (!modules.count(module)) return INVALID_HANDLE;
    int threads;
    const char* kinds = module->kinds(name, &threads);
    if (!kinds) return NOT_FOUND;
    functions.insert(*out = new Function{module, name, kinds});
    return OK;
}

// Parameters are copied when a launch is given. Code is loaded by a function's first launch, which may not be captured.
int cuLaunchKernel(Function* f, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned dynamic, Stream* s, void** given, void** extra) {
    BEGIN(CONTEXT);
    if (!functions.count(f) || !streams.count(s)) return INVALID_HANDLE;
    if (!x || !y || !z || x > 0x7fffffff || y > 65535 || z > 65535 || threads_y != 1 || threads_z != 1 || !threads ||
        threads > 1024 || dynamic > (48u << 10) || extra)
        return INVALID_VALUE;
    if (s->capture && !f->launched) return STREAM_CAPTURE_UNSUPPORTED;
    f->launched = true;
    std::vector<std::vector<uint64_t>> params;
    for (const char* kind = f->kinds.c_str(); *kind;) {
        size_t bytes = size_of_kind(kind);
        params.emplace_back((bytes + 7) / 8);
        memcpy(params.back().data(), given[params.size() - 1], bytes);
    }
    return give(s, [=] { return launch(f, {x, y, z}, threads, dynamic, params); });
}

}  // extern "C"
