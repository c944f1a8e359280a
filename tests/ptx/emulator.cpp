// Runs PTX on a CPU, a warp at a time, and checks what it runs. Written from the PTX ISA manual, not from the kernels.
//
// The lanes of a warp that are furthest behind go first; warps go in an order that can be chosen, so a missing barrier shows.
// Reported: accesses out of bounds of every array, misaligned, or of what nobody has written; registers read before they are
// written; data races between barriers, blocks and blocks of a cluster; copies of cp.async that are read or overwritten before
// they are waited for; barriers, shuffles and matrix multiplies that lanes are missing from; factors that are not
// TF32.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned __int128 u128;

namespace {

const u32 ALL = 0xFFFFFFFFu;
const u32 UNWRITTEN = 0x7FFADBADu;  // a word of global memory that nobody has written: emulator.py fills arrays with it
const u32 NOT_A_NUMBER = 0x7FFFFFFFu;  // the NaN that arithmetic gives
const int LANES = 32, RANK = 24;  // an address of another block's shared memory has that block's rank + 1 from this bit on
const u64 SHARED_WINDOW = 0x7f0000000000ull, WINDOW = 0x100000000ull;  // of generic addresses
const u64 MOST_STEPS = 300'000'000;  // of a launch

#define FOR_LANES(l, lanes) for (int l = 0; l < LANES; ++l) if ((lanes) >> l & 1)

// --- instructions ------------------------------------------------------------------------------------------------------

enum Type { NONE, B8, U8, S8, B16, U16, S16, B32, U32, S32, F32, B64, U64, S64, F64, PRED, TF32 };
enum Op { LD, ST, MOV, ADD, SUB, MUL, MUL_HI, MUL_WIDE, MAD, MAD_WIDE, FMA, DIV, REM, AND, OR, XOR, NOT, SHL, SHR, MIN, MAX, NEG,
          ABS, SQRT, RCP, EX2, LG2, SETP, SELP, CVT, CVTA, BFI, BFE, COPYSIGN, PRMT, SHF, BRA, RET, BAR, WARP_BAR, SHFL, MMA,
          COPY, COMMIT, WAIT, PREFETCH, MAPA, CLUSTER_ARRIVE, CLUSTER_WAIT, GRID_WAIT, GRID_LAUNCH };
enum Space { GENERIC, GLOBAL, SHARED, PARAM };
enum Round { NEAREST, ZERO, DOWN, UP, AWAY, APPROXIMATELY };
enum Compare { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NAN_ };

int size_of(Type type) {
    switch (type) {
    case B8: case U8: case S8: return 1;
    case B16: case U16: case S16: return 2;
    case B64: case U64: case S64: case F64: return 8;
    default: return 4;
    }
}

bool is_signed(Type type) { return type == S8 || type == S16 || type == S32 || type == S64; }

struct alignas(64) Row { u64 x[LANES]; };  // a register of 32 lanes, or one word of bits in the place of 32 predicates

template <class T> T* lanes_of(Row& row) { return reinterpret_cast<T*>(row.x); }

struct Operand {
    enum Kind { REGISTER, CONSTANT, SPECIAL } kind;
    u64 value;  // a register's number, a constant's bits, or which special register
    Row *narrow, *wide;  // of a constant: in every lane, as 32 and as 64 bits
};

struct Instruction {
    std::string name;
    Op op;
    Type type = NONE, from = NONE;
    Round round = NEAREST;
    Space space = GENERIC;
    int compare = EQ, vector = 1, target = -1, predicate = -1, line = 0, source = 0;
    bool flush = false, saturate = false, to_space = false, negated = false;
    std::vector<Operand> operands;
    int results = 1;  // operands that are written; the others are read
    int likely = 0;   // the range of global memory that it last hit
};

struct Kernel {
    std::string name;
    std::vector<Instruction> code;
    std::vector<std::pair<u64, u64>> shared;  // from, to: every shared variable
    std::deque<Row> constants;
    int registers, shared_bytes, cluster;
};

std::vector<std::string> split(const std::string& name) {
    std::vector<std::string> words;
    std::stringstream stream(name);
    for (std::string word; std::getline(stream, word, '.');) words.push_back(word);
    return words;
}

// What a mnemonic says. False for one that is not emulated.
bool decode(Instruction& in, const std::string& name) {
    static const std::map<std::string, Op> whole = {
        {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", MMA}, {"cp.async.cg.shared.global", COPY},
        {"cp.async.commit_group", COMMIT}, {"cp.async.wait_group", WAIT}, {"bar.sync", BAR}, {"barrier.sync", BAR},
        {"bar.warp.sync", WARP_BAR}, {"shfl.sync.bfly.b32", SHFL}, {"prefetch.global.L2", PREFETCH},
        {"mapa.shared::cluster.u32", MAPA}, {"barrier.cluster.arrive.release.aligned", CLUSTER_ARRIVE},
        {"barrier.cluster.arrive.aligned", CLUSTER_ARRIVE}, {"barrier.cluster.wait.acquire.aligned", CLUSTER_WAIT},
        {"barrier.cluster.wait.aligned", CLUSTER_WAIT}, {"griddepcontrol.wait", GRID_WAIT},
        {"griddepcontrol.launch_dependents", GRID_LAUNCH}};
    static const std::map<std::string, Op> ops = {
        {"ld", LD}, {"st", ST}, {"mov", MOV}, {"add", ADD}, {"sub", SUB}, {"mul", MUL}, {"mad", MAD}, {"fma", FMA}, {"div", DIV},
        {"rem", REM}, {"and", AND}, {"or", OR}, {"xor", XOR}, {"not", NOT}, {"shl", SHL}, {"shr", SHR}, {"min", MIN}, {"max", MAX},
        {"neg", NEG}, {"abs", ABS}, {"sqrt", SQRT}, {"rcp", RCP}, {"ex2", EX2}, {"lg2", LG2}, {"setp", SETP}, {"selp", SELP},
        {"cvt", CVT}, {"cvta", CVTA}, {"bfi", BFI}, {"bfe", BFE}, {"copysign", COPYSIGN}, {"prmt", PRMT}, {"shf", SHF},
        {"bra", BRA}, {"ret", RET}, {"exit", RET}};
    static const std::map<std::string, Type> types = {
        {"b8", B8}, {"u8", U8}, {"s8", S8}, {"b16", B16}, {"u16", U16}, {"s16", S16}, {"b32", B32}, {"u32", U32}, {"s32", S32},
        {"f32", F32}, {"b64", B64}, {"u64", U64}, {"s64", S64}, {"f64", F64}, {"pred", PRED}, {"tf32", TF32}};
    static const std::map<std::string, Round> rounds = {
        {"rn", NEAREST}, {"rz", ZERO}, {"rm", DOWN}, {"rp", UP}, {"rni", NEAREST}, {"rzi", ZERO}, {"rmi", DOWN}, {"rpi", UP},
        {"rna", AWAY}, {"approx", APPROXIMATELY}};
    static const std::map<std::string, int> compares = {
        {"eq", EQ}, {"ne", NE}, {"lt", LT}, {"le", LE}, {"gt", GT}, {"ge", GE}, {"lo", LT}, {"ls", LE}, {"hi", GT}, {"hs", GE},
        {"equ", EQU}, {"neu", NEU}, {"ltu", LTU}, {"leu", LEU}, {"gtu", GTU}, {"geu", GEU}, {"num", NUM}, {"nan", NAN_}};
    static const std::map<std::string, Space> spaces = {
        {"global", GLOBAL}, {"shared", SHARED}, {"shared::cta", SHARED}, {"shared::cluster", SHARED}, {"param", PARAM}};
    in.name = name;
    if (whole.count(name)) {
        in.op = whole.at(name);
        in.results = in.op == MMA ? 4 : in.op == SHFL || in.op == MAPA ? 1 : 0;
        return true;
    }
    std::vector<std::string> words = split(name);
    if (!ops.count(words[0])) return false;
    in.op = ops.at(words[0]);
    bool high = false, wide = false;
    for (size_t i = 1; i < words.size(); ++i) {
        const std::string& word = words[i];
        if (types.count(word)) (in.type == NONE ? in.type : in.from) = types.at(word);
        else if (in.op == SETP && compares.count(word)) in.compare = compares.at(word);
        else if (rounds.count(word)) in.round = rounds.at(word);
        else if (spaces.count(word)) in.space = spaces.at(word);
        else if (word == "ftz") in.flush = true;
        else if (word == "sat") in.saturate = true;
        else if (word == "hi") high = true;
        else if (word == "wide") wide = true;
        else if (word == "to") in.to_space = true;
        else if (word == "v2" || word == "v4") in.vector = word[1] - '0';
        else if (!(word == "lo" || word == "nc" || word == "uni" || (in.op == SHF && (word == "l" || word == "wrap")))) return false;
    }
    if (in.op == MUL && (high || wide)) in.op = wide ? MUL_WIDE : MUL_HI;
    if (in.op == MAD && wide) in.op = MAD_WIDE;
    if (in.op == MAD && (high || in.type == F32)) return false;
    in.results = in.op == LD ? in.vector : in.op == ST || in.op == BRA || in.op == RET ? 0 : 1;
    return true;
}

// --- numbers -----------------------------------------------------------------------------------------------------------

template <class To, class From> To bits(From from) { To to; memcpy(&to, &from, sizeof to); return to; }

float flushed(float x) { return bits<u32>(x) & 0x7F800000u ? x : bits<float>(bits<u32>(x) & 0x80000000u); }

u64 cut(u64 x, Type type) { return size_of(type) == 8 ? x : x & ((1ull << 8 * size_of(type)) - 1); }

s64 extended(u64 x, Type type) {
    switch (size_of(type)) {
    case 1: return (int8_t)x;
    case 2: return (int16_t)x;
    case 4: return (s32)x;
    default: return (s64)x;
    }
}

// Another rounding than to the nearest, while it lives.
struct Rounding {
    int before = fegetround();
    explicit Rounding(Round round) {
        if (round == ZERO || round == DOWN || round == UP)
            fesetround(round == ZERO ? FE_TOWARDZERO : round == DOWN ? FE_DOWNWARD : FE_UPWARD);
    }
    ~Rounding() { if (fegetround() != before) fesetround(before); }
};

template <class T>
bool compared(int how, T x, T y) {
    bool unordered = x != x || y != y;
    switch (how) {
    case EQ: return x == y;
    case NE: return !unordered && x != y;
    case LT: return x < y;
    case LE: return x <= y;
    case GT: return x > y;
    case GE: return x >= y;
    case EQU: return unordered || x == y;
    case NEU: return unordered || x != y;
    case LTU: return unordered || x < y;
    case LEU: return unordered || x <= y;
    case GTU: return unordered || x > y;
    case GEU: return unordered || x >= y;
    case NUM: return !unordered;
    default: return unordered;
    }
}

double rounded(double x, Round round) {
    return round == NEAREST ? std::nearbyint(x) : round == ZERO ? std::trunc(x) : round == DOWN ? std::floor(x) : std::ceil(x);
}

u64 converted(const Instruction& in, u64 x) {
    Type to = in.type, from = in.from;
    if (to == TF32) {  // the nearest with 10 bits of fraction, ties away from 0
        u32 b = (u32)x, low = b & 0x1FFFu;
        if ((b & 0x7F800000u) == 0x7F800000u) return b & 0x007FFFFFu ? NOT_A_NUMBER : b;
        return b - low + (low >= 0x1000u ? 0x2000u : 0);
    }
    if (from == F32 || from == F64) {
        double value = from == F32 ? bits<float>((u32)x) : bits<double>(x);
        if (in.flush && from == F32) value = flushed((float)value);
        bool whole = in.name.find('i') != std::string::npos;  // .rni, .rzi and so on
        if (to == F64) return bits<u64>(whole ? rounded(value, in.round) : value);
        if (to == F32) {
            float y = (float)(from == F32 && whole ? rounded(value, in.round) : value);
            if (in.saturate) y = y > 0 ? std::min(y, 1.0f) : 0.0f;  // a NaN becomes 0
            return bits<u32>(in.flush ? flushed(y) : y);
        }
        if (value != value) return 0;
        double most = std::ldexp(1.0, 8 * size_of(to) - is_signed(to)), least = is_signed(to) ? -most : 0.0;
        value = rounded(value, in.round);
        if (value >= most) return is_signed(to) ? cut((u64)extended(~0ull, U64) >> (65 - 8 * size_of(to)), to) : cut(~0ull, to);
        return cut((u64)(value <= least ? (is_signed(to) ? (s64)least : 0) : is_signed(to) ? (s64)value : (s64)(u64)value), to);
    }
    u64 value = is_signed(from) ? (u64)extended(x, from) : cut(x, from);
    if (to == F32) return bits<u32>(is_signed(from) ? (float)(s64)value : (float)value);
    if (to == F64) return bits<u64>(is_signed(from) ? (double)(s64)value : (double)value);
    return cut(value, to);
}

// --- memory ------------------------------------------------------------------------------------------------------------

struct Array {  // global memory, with who touched each word in this launch
    u8* host;
    u64 base, bytes;
    struct Access { u32 launch, block, epoch, thread; };
    struct Word { Access write, read; bool many_blocks, early; };
    std::vector<Word> words;
};

struct Range { u64 from, to; int array; bool writable; };

// Who last wrote and read a word of shared memory: thread of the cluster, and how many barriers of the block and of the
// cluster it had passed.
struct Access {
    u32 epoch = 0, cluster_epoch = 0;
    int thread = -1;
};

const int MANY = 1 << 20;  // in the place of a thread

struct Word {
    Access write, read;
    int copying = -1;  // the thread whose cp.async has not been waited for
    bool written[4] = {};
};

struct Pending { u32 to, group; u8 data[16]; };  // a copy under way

enum State : u8 { RUNNING, AT_BARRIER, AT_CLUSTER_BARRIER, LEFT };

struct Warp {
    std::vector<Row> registers;
    std::vector<u32> defined;  // lanes in which a register has been written
    int pc[LANES];
    State state[LANES];
    u32 arrived, dependent;  // lanes that are at the cluster's barrier, that may read what kernels before this one wrote
    u32 group[LANES];
    std::vector<Pending> pending[LANES];
    u32 running() const {
        u32 lanes = 0;
        for (int l = 0; l < LANES; ++l) lanes |= (u32)(state[l] == RUNNING) << l;
        return lanes;
    }
    u32 present() const {
        u32 lanes = 0;
        for (int l = 0; l < LANES; ++l) lanes |= (u32)(state[l] != LEFT) << l;
        return lanes;
    }
};

struct Block {
    u32 x, y, number, rank, epoch, left;  // left: threads that have
    std::vector<u8> shared;
    std::vector<Word> words;
    std::vector<Warp> warps;
};

// --- the machine -------------------------------------------------------------------------------------------------------

struct Machine {
    std::vector<std::unique_ptr<Kernel>> kernels;
    std::vector<Array> arrays;
    std::vector<Range> ranges;
    std::map<std::string, std::pair<std::string, u64>> reports;
    int tensor_cores = 0, approximately = 0, order = 0;
    std::mt19937 random;
    u64 steps = 0;
    bool checked = true;
    // of the launch
    Kernel* kernel;
    const u8* parameters;
    u32 parameter_bytes, grid_x, grid_y, threads, launch_number = 0, cluster_epoch;
    std::vector<Block> cluster;
    Block* block;
    int warp_number;

    void report(const std::string& kind, const Instruction& in, int lane, const std::string& more = "") {
        auto& found = reports[kind + kernel->name + std::to_string(in.line)];
        if (found.second++) return;
        std::stringstream text;
        text << kind << " | " << kernel->name << " | source line " << in.source << " | " << in.name << ", line " << in.line
             << " | block (" << block->x << ", " << block->y << ") thread " << warp_number * LANES + lane << " | " << more;
        found.first = text.str();
    }

    // --- operands

    template <class T> const T* read(Warp& warp, const Operand& operand, Row& room) {
        if (operand.kind == Operand::REGISTER) {
            Row& from = warp.registers[operand.value];
            if (sizeof(T) == 8 || operand.value < first_wide) return lanes_of<T>(from);
            for (int l = 0; l < LANES; ++l) lanes_of<u32>(room)[l] = (u32)from.x[l];  // st.u32 of a register of 64 bits, say
            return lanes_of<T>(room);
        }
        if (operand.kind == Operand::CONSTANT) return lanes_of<T>(sizeof(T) == 8 ? *operand.wide : *operand.narrow);
        T* to = lanes_of<T>(room);
        const u32 special[] = {0, 0, 0, block->x, block->y, 0, grid_x, grid_y, 1, threads, 1, 1, 0, block->rank,
                               (u32)kernel->cluster};
        for (int l = 0; l < LANES; ++l)
            to[l] = operand.value == 0 ? warp_number * LANES + l : operand.value == 12 ? l : special[operand.value];
        return to;
    }

    template <class T> void write(Warp& warp, const Operand& operand, const T* from, u32 lanes) {
        T* to = lanes_of<T>(warp.registers[operand.value]);
        if (lanes == ALL) memcpy(to, from, LANES * sizeof(T));
        else FOR_LANES(l, lanes) to[l] = from[l];
        warp.defined[operand.value] |= lanes;
    }

    template <class R, class A, class F> void map1(Warp& w, const Instruction& in, u32 lanes, F f) {
        Row room, out;
        const A* a = read<A>(w, in.operands[1], room);
        R* to = lanes_of<R>(out);
        for (int l = 0; l < LANES; ++l) to[l] = f(a[l]);
        write(w, in.operands[0], to, lanes);
    }

    template <class R, class A, class B, class F> void map2(Warp& w, const Instruction& in, u32 lanes, F f) {
        Row room_a, room_b, out;
        const A* a = read<A>(w, in.operands[1], room_a);
        const B* b = read<B>(w, in.operands[2], room_b);
        R* to = lanes_of<R>(out);
        for (int l = 0; l < LANES; ++l) to[l] = f(a[l], b[l]);
        write(w, in.operands[0], to, lanes);
    }

    template <class R, class A, class B, class C, class F> void map3(Warp& w, const Instruction& in, u32 lanes, F f) {
        Row room_a, room_b, room_c, out;
        const A* a = read<A>(w, in.operands[1], room_a);
        const B* b = read<B>(w, in.operands[2], room_b);
        const C* c = read<C>(w, in.operands[3], room_c);
        R* to = lanes_of<R>(out);
        for (int l = 0; l < LANES; ++l) to[l] = f(a[l], b[l], c[l]);
        write(w, in.operands[0], to, lanes);
    }

    // --- arithmetic

    // The manual lets .approx be off by a few units of the last place: here by up to `approximately` of them.
    float jiggled(float x, u32 seed) const {
        if (!approximately || !std::isfinite(x) || x == 0) return x;
        u64 h = (seed + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
        s64 size = (bits<u32>(x) & 0x7FFFFFFF) + (s64)((h >> 33) % (2 * approximately + 1)) - approximately;
        return bits<float>((bits<u32>(x) & 0x80000000) | (u32)std::min(std::max(size, (s64)0), (s64)0x7F800000));
    }

    template <class F> void floats(Warp& w, const Instruction& in, u32 lanes, int count, F f) {
        Row rooms[3], out;
        const u32* from[3];
        for (int i = 0; i < 3; ++i) from[i] = read<u32>(w, in.operands[std::min(1 + i, count)], rooms[i]);
        u32* to = lanes_of<u32>(out);
        bool flush = in.flush, saturate = in.saturate;
        for (int l = 0; l < LANES; ++l) {
            float x = bits<float>(from[0][l]), y = bits<float>(from[1][l]), z = bits<float>(from[2][l]);
            if (flush) { x = flushed(x); y = flushed(y); z = flushed(z); }
            float r = f(x, y, z);
            if (flush) r = flushed(r);
            if (saturate) r = r > 0 ? std::min(r, 1.0f) : 0.0f;
            to[l] = r != r ? NOT_A_NUMBER : bits<u32>(r);
        }
        write(w, in.operands[0], to, lanes);
    }

    void float32(Warp& w, const Instruction& in, u32 lanes) {
        Rounding rounding(in.round);
        switch (in.op) {
        case ADD: return floats(w, in, lanes, 2, [](float x, float y, float) { return x + y; });
        case SUB: return floats(w, in, lanes, 2, [](float x, float y, float) { return x - y; });
        case MUL: return floats(w, in, lanes, 2, [](float x, float y, float) { return x * y; });
        case FMA: return floats(w, in, lanes, 3, [](float x, float y, float z) { return __builtin_fmaf(x, y, z); });
        case MIN: return floats(w, in, lanes, 2, [](float x, float y, float) {
            return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? x : y) : x < y ? x : y; });
        case MAX: return floats(w, in, lanes, 2, [](float x, float y, float) {
            return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? y : x) : x > y ? x : y; });
        case RCP: return floats(w, in, lanes, 1, [&](float x, float, float) {
            return in.round == APPROXIMATELY ? jiggled(1.0f / x, bits<u32>(x)) : 1.0f / x; });
        case EX2: return floats(w, in, lanes, 1, [&](float x, float, float) { return jiggled(std::exp2(x), bits<u32>(x)); });
        case LG2: return floats(w, in, lanes, 1, [&](float x, float, float) { return jiggled(std::log2(x), bits<u32>(x)); });
        case DIV: if (in.round == APPROXIMATELY) break;
            return floats(w, in, lanes, 2, [](float x, float y, float) { return x / y; });
        case SQRT: if (in.round == APPROXIMATELY) break;
            return floats(w, in, lanes, 1, [](float x, float, float) { return std::sqrt(x); });
        case NEG: return map1<u32, u32>(w, in, lanes, [&](u32 x) { return bits<u32>(in.flush ? flushed(bits<float>(x)) : bits<float>(x)) ^ 0x80000000u; });
        case ABS: return map1<u32, u32>(w, in, lanes, [&](u32 x) { return bits<u32>(in.flush ? flushed(bits<float>(x)) : bits<float>(x)) & 0x7FFFFFFFu; });
        case COPYSIGN: return map2<u32, u32, u32>(w, in, lanes, [](u32 x, u32 y) { return (x & 0x80000000u) | (y & 0x7FFFFFFFu); });
        default: break;
        }
        throw std::runtime_error("not emulated: " + in.name);
    }

    void float64(Warp& w, const Instruction& in, u32 lanes) {
        if (in.round != NEAREST) throw std::runtime_error("not emulated: " + in.name);
        switch (in.op) {
        case ADD: return map2<double, double, double>(w, in, lanes, [](double x, double y) { return x + y; });
        case SUB: return map2<double, double, double>(w, in, lanes, [](double x, double y) { return x - y; });
        case MUL: return map2<double, double, double>(w, in, lanes, [](double x, double y) { return x * y; });
        case DIV: return map2<double, double, double>(w, in, lanes, [](double x, double y) { return x / y; });
        case RCP: return map1<double, double>(w, in, lanes, [](double x) { return 1.0 / x; });
        case SQRT: return map1<double, double>(w, in, lanes, [](double x) { return std::sqrt(x); });
        case NEG: return map1<double, double>(w, in, lanes, [](double x) { return -x; });
        case ABS: return map1<double, double>(w, in, lanes, [](double x) { return std::fabs(x); });
        case FMA: return map3<double, double, double, double>(w, in, lanes, [](double x, double y, double z) { return __builtin_fma(x, y, z); });
        default: throw std::runtime_error("not emulated: " + in.name);
        }
    }

    // T: the unsigned type of the registers. NARROW: the numbers have fewer bits, and are cut where they are made.
    template <class T, bool NARROW> void integer(Warp& w, const Instruction& in, u32 lanes) {
        Type type = NARROW ? in.type : sizeof(T) == 8 ? (is_signed(in.type) ? S64 : U64) : is_signed(in.type) ? S32 : U32;
        bool sign = is_signed(type);
        typedef typename std::conditional<NARROW, u32, u64>::type Wide;  // a register of twice as many bits
        int width = 8 * size_of(type);
        auto fit = [=](T x) { return NARROW ? (T)cut(x, type) : x; };
        auto product = [=](T x, T y) { return (Wide)(sign ? (u64)(extended(x, type) * extended(y, type)) : cut(x, type) * cut(y, type)); };
        auto less = [=](T x, T y) { return sign ? extended(x, type) < extended(y, type) : x < y; };
        switch (in.op) {
        case MOV: return map1<T, T>(w, in, lanes, [](T x) { return x; });
        case ADD: return map2<T, T, T>(w, in, lanes, [=](T x, T y) { return fit(x + y); });
        case SUB: return map2<T, T, T>(w, in, lanes, [=](T x, T y) { return fit(x - y); });
        case MUL: return map2<T, T, T>(w, in, lanes, [=](T x, T y) { return fit(x * y); });
        case MUL_HI: return map2<T, T, T>(w, in, lanes, [=](T x, T y) {
            return fit(sign ? (T)((__int128)extended(x, type) * extended(y, type) >> width) : (T)((u128)x * y >> width)); });
        case MUL_WIDE: return map2<Wide, T, T>(w, in, lanes, product);
        case MAD: return map3<T, T, T, T>(w, in, lanes, [=](T x, T y, T z) { return fit(x * y + z); });
        case MAD_WIDE: return map3<Wide, T, T, Wide>(w, in, lanes, [=](T x, T y, Wide z) { return product(x, y) + z; });
        case DIV: case REM: {
            Row room;
            const T* y = read<T>(w, in.operands[2], room);
            FOR_LANES(l, lanes) if (!cut(y[l], type)) report("INTEGER DIVISION by 0", in, l);
            bool rest = in.op == REM;
            return map2<T, T, T>(w, in, lanes, [=](T x, T y) {
                if (!cut(y, type)) return (T)0;
                if (sign) return (T)cut(rest ? extended(x, type) % extended(y, type) : extended(x, type) / extended(y, type), type);
                return (T)(rest ? cut(x, type) % cut(y, type) : cut(x, type) / cut(y, type)); });
        }
        case AND: return map2<T, T, T>(w, in, lanes, [](T x, T y) { return x & y; });
        case OR: return map2<T, T, T>(w, in, lanes, [](T x, T y) { return x | y; });
        case XOR: return map2<T, T, T>(w, in, lanes, [](T x, T y) { return x ^ y; });
        case NOT: return map1<T, T>(w, in, lanes, [=](T x) { return fit(~x); });
        case SHL: return map2<T, T, u32>(w, in, lanes, [=](T x, u32 n) { return n >= (u32)width ? (T)0 : fit(x << (n & (8 * sizeof(T) - 1))); });
        case SHR: return map2<T, T, u32>(w, in, lanes, [=](T x, u32 n) {
            if (sign) return (T)cut(extended(x, type) >> std::min(n, (u32)width - 1), type);
            return n >= (u32)width ? (T)0 : (T)(cut(x, type) >> n); });
        case MIN: return map2<T, T, T>(w, in, lanes, [=](T x, T y) { return less(y, x) ? y : x; });
        case MAX: return map2<T, T, T>(w, in, lanes, [=](T x, T y) { return less(x, y) ? y : x; });
        case NEG: return map1<T, T>(w, in, lanes, [=](T x) { return fit(0 - x); });
        case ABS: return map1<T, T>(w, in, lanes, [=](T x) { return (T)cut(std::abs(extended(x, type)), type); });
        case BFE: if (sign) break;
            return map3<T, T, u32, u32>(w, in, lanes, [=](T x, u32 at, u32 count) {
                at &= 255, count &= 255;
                u64 value = at >= (u32)width ? 0 : cut(x, type) >> at;
                return (T)(count >= 64 ? value : value & ((1ull << count) - 1)); });
        case BFI: {
            Row room;
            const u32* counts = read<u32>(w, in.operands[4], room);
            u32 count = counts[0] & 255;
            FOR_LANES(l, lanes) if ((counts[l] & 255) != count) throw std::runtime_error("not emulated: bfi of different widths");
            return map3<T, T, T, u32>(w, in, lanes, [=](T x, T y, u32 at) {
                at &= 255;
                u64 mask = at >= (u32)width ? 0 : (count >= 64 ? ~0ull : (1ull << count) - 1) << at;
                return (T)cut((y & ~mask) | ((u64)x << (at & 63) & mask), type); });
        }
        case PRMT: return map3<T, T, T, u32>(w, in, lanes, [](T x, T y, u32 how) {
            u64 both = (u64)(u32)y << 32 | (u32)x, result = 0;
            for (int i = 0; i < 4; ++i) {
                u32 pick = how >> 4 * i & 15, byte = both >> 8 * (pick & 7) & 255;
                result |= (u64)(pick & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
            }
            return (T)result; });
        case SHF: return map3<T, T, T, u32>(w, in, lanes, [](T low, T high, u32 n) {
            return (T)(u32)(((u64)(u32)high << 32 | (u32)low) << (n & 31) >> 32); });
        case CVTA: return map1<T, T>(w, in, lanes, [&](T x) {
            return in.space != SHARED ? x : (T)(in.to_space ? x - SHARED_WINDOW : x + SHARED_WINDOW); });
        default: break;
        }
        throw std::runtime_error("not emulated: " + in.name);
    }

    u32 predicate(Warp& w, const Operand& operand) {
        if (operand.kind == Operand::CONSTANT) return operand.value ? ALL : 0;
        return *lanes_of<u32>(w.registers[operand.value]);
    }

    void set_predicate(Warp& w, const Operand& operand, u32 value, u32 lanes) {
        u32& to = *lanes_of<u32>(w.registers[operand.value]);
        to = (to & ~lanes) | (value & lanes);
        w.defined[operand.value] |= lanes;
    }

    void predicates(Warp& w, const Instruction& in, u32 lanes) {
        u32 x = predicate(w, in.operands[1]), y = in.operands.size() > 2 ? predicate(w, in.operands[2]) : 0;
        u32 result = in.op == AND ? x & y : in.op == OR ? x | y : in.op == XOR ? x ^ y : in.op == NOT ? ~x : x;
        set_predicate(w, in.operands[0], result, lanes);
    }

    template <class T> void compare(Warp& w, const Instruction& in, u32 lanes) {
        Row room_a, room_b;
        const T *a = read<T>(w, in.operands[1], room_a), *b = read<T>(w, in.operands[2], room_b);
        u32 result = 0;
        for (int l = 0; l < LANES; ++l) {
            T x = a[l], y = b[l];
            if constexpr (std::is_same<T, s32>::value) x = (s32)extended((u32)x, in.type), y = (s32)extended((u32)y, in.type);
            if constexpr (std::is_same<T, float>::value) if (in.flush) x = flushed(x), y = flushed(y);
            result |= (u32)compared(in.compare, x, y) << l;
        }
        set_predicate(w, in.operands[0], result, lanes);
    }

    template <class T> void select(Warp& w, const Instruction& in, u32 lanes) {
        Row room_a, room_b, out;
        const T *a = read<T>(w, in.operands[1], room_a), *b = read<T>(w, in.operands[2], room_b);
        u32 first = predicate(w, in.operands[3]);
        T* to = lanes_of<T>(out);
        for (int l = 0; l < LANES; ++l) to[l] = first >> l & 1 ? a[l] : b[l];
        write(w, in.operands[0], to, lanes);
    }

    void convert(Warp& w, const Instruction& in, u32 lanes) {
        bool to_wide = size_of(in.type) == 8, from_wide = size_of(in.from) == 8;
        auto f = [&](u64 x) { return converted(in, x); };
        if (to_wide && from_wide) map1<u64, u64>(w, in, lanes, f);
        else if (to_wide) map1<u64, u32>(w, in, lanes, f);
        else if (from_wide) map1<u32, u64>(w, in, lanes, f);
        else map1<u32, u32>(w, in, lanes, f);
    }

    // c (16, 8) + a (16, 8) · b (8, 8). PTX ISA, "Matrix Fragments for mma.m16n8k8", .tf32: group = lane / 4, t = lane % 4;
    // a0 … a3 at rows group, group + 8, group, group + 8 and columns t, t, t + 4, t + 4; b0, b1 at rows t, t + 4, column group;
    // c0 … c3 at rows group, group, group + 8, group + 8 and columns 2t, 2t + 1, 2t, 2t + 1.
    void multiply(Warp& w, const Instruction& in) {
        float a[16][8], b[8][8], c[16][8];
        Row room;
        u32 beyond = 0;  // bits that the unit does not read
        for (int i = 0; i < 4; ++i) {
            const u32* from = read<u32>(w, in.operands[4 + i], room);
            for (int l = 0; l < LANES; ++l) {
                a[l / 4 + i % 2 * 8][l % 4 + i / 2 * 4] = bits<float>(from[l] & 0xFFFFE000u);
                if ((from[l] & 0x7FFFFFFFu) <= 0x7F800000u) beyond |= from[l];
            }
        }
        for (int i = 0; i < 2; ++i) {
            const u32* from = read<u32>(w, in.operands[8 + i], room);
            for (int l = 0; l < LANES; ++l) {
                b[l % 4 + i * 4][l / 4] = bits<float>(from[l] & 0xFFFFE000u);
                if ((from[l] & 0x7FFFFFFFu) <= 0x7F800000u) beyond |= from[l];
            }
        }
        if (beyond & 0x1FFFu) report("MULTIPLY of numbers that are not TF32", in, 0);
        for (int i = 0; i < 4; ++i) {
            const float* from = read<float>(w, in.operands[10 + i], room);
            for (int l = 0; l < LANES; ++l) c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2] = from[l];
        }
        if (tensor_cores == 0) {
            for (int row = 0; row < 16; ++row) {
                double sum[8];
                for (int n = 0; n < 8; ++n) sum[n] = c[row][n];
                for (int k = 0; k < 8; ++k)
                    for (int n = 0; n < 8; ++n) sum[n] += (double)a[row][k] * b[k][n];
                for (int n = 0; n < 8; ++n) c[row][n] = (float)sum[n];
            }
        } else {
            for (int row = 0; row < 16; ++row)
                for (int n = 0; n < 8; ++n)
                    for (int half = 0; half < 8; half += 4) c[row][n] = pessimistic(c[row][n], a[row] + half, b[half] + n);
        }
        for (int i = 0; i < 4; ++i) {
            u32 to[LANES];
            for (int l = 0; l < LANES; ++l) {
                float x = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
                to[l] = x != x ? NOT_A_NUMBER : bits<u32>(x);
            }
            write(w, in.operands[i], to, ALL);
        }
    }

    // Four products and the sum before, all cut off at the last place of the largest.
    static float pessimistic(float c, const float* a, const float* b) {
        double parts[5] = {c}, sum = 0;
        for (int k = 0; k < 4; ++k) parts[k + 1] = (double)a[k] * b[8 * k];
        int top = -2000;
        bool finite = true;
        for (double x : parts) {
            finite &= std::isfinite(x);
            if (x != 0) top = std::max(top, std::ilogb(x));
        }
        for (double x : parts) sum += finite && top > -2000 ? std::ldexp(std::trunc(std::ldexp(x, 23 - top)), top - 23) : x;
        float nearest = (float)sum;
        return std::isfinite(nearest) && std::fabs(nearest) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
    }

    // --- global memory

    // The place of an address on the host, or null after a report.
    u8* global(u64 at, int bytes, bool write, Warp& w, int lane, Instruction& in) {
        int found = -1;
        auto inside = [&](int i) { return at >= ranges[i].from && at + bytes <= ranges[i].to && (!write || ranges[i].writable); };
        if (in.likely < (int)ranges.size() && inside(in.likely)) found = in.likely;
        for (int i = 0; found < 0 && i < (int)ranges.size(); ++i) if (inside(i)) found = i;
        if (found < 0) {
            std::stringstream text;
            for (size_t i = 0; i < ranges.size(); ++i)
                if (at + 65536 > ranges[i].from && at < ranges[i].to + 65536)
                    text << (s64)(at - ranges[i].from) << " of " << ranges[i].to - ranges[i].from << " bytes of array " << i
                         << (ranges[i].writable ? ". " : ", which is const. ");
            report(write ? "OUT OF BOUNDS global write" : "OUT OF BOUNDS global read", in, lane, text.str());
            return nullptr;
        }
        in.likely = found;
        if (at % bytes) {
            report("MISALIGNED global access", in, lane);
            return nullptr;
        }
        Array& array = arrays[ranges[found].array];
        if (checked) touch(array, at, bytes, write, w, lane, in);
        return array.host + (at - array.base);
    }

    void touch(Array& array, u64 at, int bytes, bool write, Warp& w, int lane, const Instruction& in) {
        if (array.words.empty()) array.words.resize(array.bytes / 4 + 2);
        Array::Access self = {launch_number, block->number, block->epoch, (u32)(warp_number * LANES + lane)};
        for (u64 i = (at - array.base) / 4; i <= (at - array.base + bytes - 1) / 4; ++i) {
            Array::Word& word = array.words[i];
            if (word.read.launch != launch_number && word.write.launch != launch_number) word.many_blocks = word.early = false;
            word.early |= !(w.dependent >> lane & 1);
            auto before = [&](const Array::Access& it) {  // by the same thread, or a barrier lies between
                return it.launch != launch_number
                       || (it.block == self.block && (it.thread == self.thread || it.epoch < self.epoch));
            };
            if (!before(word.write)) report("RACE in global memory", in, lane, write ? "two writes" : "a read after a write");
            if (write) {
                if (!before(word.read) || (word.read.launch == launch_number && word.many_blocks))
                    report("RACE in global memory", in, lane, "a write after a read");
                word.write = self;
                continue;
            }
            Array::Access& read = word.read;
            if (read.launch != launch_number) read = self;
            else if (read.block != self.block) word.many_blocks = true, read = self;
            else if (read.epoch != self.epoch) read = self;
            else if (read.thread != self.thread) read.thread = MANY;
        }
    }

    // --- shared memory

    // The block in whose shared memory an address is, and the address there; null after a report.
    Block* shared(u64& at, int bytes, int lane, const Instruction& in) {
        at &= WINDOW - 1;
        Block* owner = block;
        if (u32 rank = (u32)at >> RANK) {
            if (rank > cluster.size()) { report("NO SUCH BLOCK in the cluster", in, lane); return nullptr; }
            owner = &cluster[rank - 1];
            at &= (1u << RANK) - 1;
            if (owner != block && cluster_epoch == 0) report("SHARED MEMORY of a block that may not have begun", in, lane);
            if (owner->left == threads) { report("SHARED MEMORY of a block that has left", in, lane); return nullptr; }
        }
        bool inside = false;
        for (auto& variable : kernel->shared) inside |= at >= variable.first && at + bytes <= variable.second;
        if (!inside) { report("OUT OF BOUNDS shared access", in, lane, "offset " + std::to_string(at)); return nullptr; }
        if (at % bytes) { report("MISALIGNED shared access", in, lane); return nullptr; }
        return owner;
    }

    void touch(Block& owner, u64 at, int bytes, bool write, int lane, const Instruction& in) {
        int self = block->rank * 1024 + warp_number * LANES + lane;
        for (u64 i = at / 4; i <= (at + bytes - 1) / 4; ++i) {
            Word& word = owner.words[i];
            auto before = [&](const Access& it) {
                if (it.thread < 0 || it.thread == self) return true;
                bool same_block = it.thread != MANY && (u32)it.thread / 1024 == block->rank;
                return it.cluster_epoch < cluster_epoch || (same_block && it.epoch < block->epoch);
            };
            if (!before(word.write)) report("RACE in shared memory", in, lane, write ? "two writes" : "a read after a write");
            if (word.copying >= 0) report("COPY IN FLIGHT", in, lane, write ? "written over" : "read");
            if (write) {
                bool many = word.read.thread >= MANY;  // of this block, or of several
                bool ordered = many ? word.read.cluster_epoch < cluster_epoch
                                          || (word.read.thread - MANY == (int)block->rank && word.read.epoch < block->epoch)
                                    : before(word.read);
                if (!ordered) report("RACE in shared memory", in, lane, "a write after a read");
                word.write = {block->epoch, cluster_epoch, self};
                continue;
            }
            Access& read = word.read;
            bool same_block = read.thread >= MANY ? read.thread - MANY == (int)block->rank : (u32)read.thread / 1024 == block->rank;
            if (read.thread < 0 || read.cluster_epoch != cluster_epoch || (same_block && read.epoch != block->epoch))
                read = {block->epoch, cluster_epoch, self};
            else if (read.thread != self)
                read.thread = same_block ? MANY + block->rank : 2 * MANY;
        }
    }

    // --- loads, stores and copies

    Space resolve(Space space, u64 at) {
        return space != GENERIC ? space : at >= SHARED_WINDOW && at < SHARED_WINDOW + WINDOW ? SHARED : GLOBAL;
    }

    void load(u64 at, int bytes, Space space, Warp& w, int lane, Instruction& in, u8* to) {
        memset(to, 0xAD, bytes);
        if (resolve(space, at) == GLOBAL) {
            u8* from = global(at, bytes, false, w, lane, in);
            if (!from) return;
            memcpy(to, from, bytes);
            for (int i = 0; i + 4 <= bytes; i += 4) {
                u32 word;
                memcpy(&word, to + i, 4);
                if (word == UNWRITTEN) report("UNWRITTEN global memory read", in, lane);
            }
            return;
        }
        Block* owner = shared(at, bytes, lane, in);
        if (!owner) return;
        if (checked) {
            touch(*owner, at, bytes, false, lane, in);
            for (u64 i = at; i < at + bytes; ++i)
                if (!owner->words[i / 4].written[i % 4]) { report("UNWRITTEN shared memory read", in, lane); break; }
        }
        memcpy(to, &owner->shared[at], bytes);
    }

    void store(u64 at, int bytes, Space space, Warp& w, int lane, Instruction& in, const u8* from) {
        if (resolve(space, at) == GLOBAL) {
            if (u8* to = global(at, bytes, true, w, lane, in)) memcpy(to, from, bytes);
            return;
        }
        if (Block* owner = shared(at, bytes, lane, in)) write_shared(*owner, at, bytes, lane, in, from);
    }

    void write_shared(Block& owner, u64 at, int bytes, int lane, const Instruction& in, const u8* from) {
        if (checked) {
            touch(owner, at, bytes, true, lane, in);
            for (u64 i = at; i < at + bytes; ++i) owner.words[i / 4].written[i % 4] = true;
        }
        memcpy(&owner.shared[at], from, bytes);
    }

    void start_copy(Warp& w, int lane, Instruction& in, u64 to, u64 from, u32 size, u32 wanted) {
        if (size != 16 || (wanted != 16 && wanted != 0)) return report("SIZE of a copy", in, lane);
        Pending copy = {0, w.group[lane], {}};
        Block* owner = shared(to, 16, lane, in);
        if (!owner) return;
        copy.to = (u32)to;
        if (wanted) load(from, 16, GLOBAL, w, lane, in, copy.data);
        else if (from % 16) report("MISALIGNED global access", in, lane);
        if (checked) {
            touch(*block, to, 16, true, lane, in);
            for (u64 i = to / 4; i < to / 4 + 4; ++i) block->words[i].copying = warp_number * LANES + lane;
        }
        w.pending[lane].push_back(copy);
    }

    void wait_for_copies(Warp& w, int lane, const Instruction& in, u32 newest) {
        std::vector<Pending>& pending = w.pending[lane];
        size_t kept = 0;
        for (Pending& copy : pending) {
            if (copy.group + newest >= w.group[lane]) { pending[kept++] = copy; continue; }
            if (checked) for (u32 i = copy.to / 4; i < copy.to / 4 + 4; ++i) block->words[i].copying = -1;
            write_shared(*block, copy.to, 16, lane, in, copy.data);
        }
        pending.resize(kept);
    }

    // A word of this block's shared memory for each lane, where nobody wants to know about races. False where that may be wrong.
    bool unchecked(Warp& w, const Instruction& in, u32 lanes, const u32* at, u32 offset) {
        u32 from = ~0u, to = 0, odd = 0;
        for (int l = 0; l < LANES; ++l) {
            u32 here = (lanes >> l & 1) ? at[l] + offset : at[__builtin_ctz(lanes)] + offset;
            from = std::min(from, here), to = std::max(to, here), odd |= here & 3;
        }
        bool inside = false;
        for (auto& variable : kernel->shared) inside |= from >= variable.first && (u64)to + 4 <= variable.second;
        if (!inside || odd) return false;
        u8* shared = block->shared.data();
        if (in.op == LD) {
            u32 values[LANES] = {};
            FOR_LANES(l, lanes) memcpy(&values[l], shared + (u32)(at[l] + offset), 4);
            if (in.operands[0].value >= first_wide) return false;
            write(w, in.operands[0], values, lanes);
        } else {
            Row room;
            const u32* values = read<u32>(w, in.operands[2], room);
            FOR_LANES(l, lanes) memcpy(shared + (u32)(at[l] + offset), &values[l], 4);
        }
        return true;
    }

    void memory(Warp& w, Instruction& in, u32 lanes) {
        int bytes = size_of(in.type), first = in.op == LD ? in.vector : 0;
        if (in.space == PARAM) {
            u64 at = in.operands[1].value + in.operands[2].value, value = 0;
            if (in.vector != 1 || at + bytes > parameter_bytes) throw std::runtime_error("a parameter out of bounds");
            memcpy(&value, parameters + at, bytes);
            Row out;
            bool wide = in.operands[0].value >= first_wide;
            for (int l = 0; l < LANES; ++l) if (wide) out.x[l] = value; else lanes_of<u32>(out)[l] = (u32)value;
            return wide ? write(w, in.operands[0], out.x, lanes) : write(w, in.operands[0], lanes_of<u32>(out), lanes);
        }
        bool narrow_address = in.operands[first].kind == Operand::REGISTER && in.operands[first].value < first_wide;
        Row room, value_room;
        const u64* wide = narrow_address ? nullptr : read<u64>(w, in.operands[first], room);
        const u32* narrow = narrow_address ? read<u32>(w, in.operands[first], room) : nullptr;
        u64 offset = in.operands[first + 1].value;
        if (!checked && narrow && in.vector == 1 && bytes == 4 && unchecked(w, in, lanes, narrow, (u32)offset)) return;
        FOR_LANES(l, lanes) {
            u8 data[32];
            u64 at = (narrow ? narrow[l] : wide[l]) + offset;
            for (int i = 0; in.op == ST && i < in.vector; ++i) {
                const Operand& operand = in.operands[2 + i];
                u64 value = bytes == 8 ? read<u64>(w, operand, value_room)[l] : read<u32>(w, operand, value_room)[l];
                memcpy(data + i * bytes, &value, bytes);
            }
            if (in.op == ST) { store(at, bytes * in.vector, in.space, w, l, in, data); continue; }
            load(at, bytes * in.vector, in.space, w, l, in, data);
            for (int i = 0; i < in.vector; ++i) {
                u64 value = 0;
                memcpy(&value, data + i * bytes, bytes);
                if (is_signed(in.type)) value = extended(value, in.type);
                Row& to = w.registers[in.operands[i].value];
                if (in.operands[i].value >= first_wide) to.x[l] = value; else lanes_of<u32>(to)[l] = (u32)value;
            }
        }
        for (int i = 0; in.op == LD && i < in.vector; ++i) w.defined[in.operands[i].value] |= lanes;
    }

    u64 first_wide = 0;  // the first register of 64 bits: an address in shared memory, say, may be in one, or in one of 32

    // --- an instruction

    void step(Warp& w, Instruction& in, u32 lanes) {
        if (++steps > MOST_STEPS) throw std::runtime_error("more steps than a launch may take");
        u32 go = lanes;
        if (in.predicate >= 0) {
            if (~w.defined[in.predicate] & lanes) report("UNDEFINED register", in, 0);
            u32 value = *lanes_of<u32>(w.registers[in.predicate]);
            go &= in.negated ? ~value : value;
        }
        for (int l = 0; l < LANES; ++l) w.pc[l] += lanes >> l & 1;
        if (!go) return;
        for (size_t i = in.results; i < in.operands.size(); ++i)
            if (in.operands[i].kind == Operand::REGISTER && ~w.defined[in.operands[i].value] & go && !(in.op == SHFL && i == 5))
                report("UNDEFINED register", in, 0);
        switch (in.op) {
        case BRA: FOR_LANES(l, go) w.pc[l] = in.target; return;
        case RET:
            FOR_LANES(l, go) {
                w.state[l] = LEFT;
                ++block->left;
                if (!w.pending[l].empty()) report("COPY IN FLIGHT", in, l, "at the end");
            }
            return;
        case BAR:
            if (w.present() != ALL || go != ALL) report("BARRIER that lanes are missing from", in, 0);
            FOR_LANES(l, go) w.state[l] = AT_BARRIER;
            return;
        case WARP_BAR: if (go != w.present()) report("BARRIER that lanes are missing from", in, 0); return;
        case CLUSTER_ARRIVE:
            if (go != ALL || w.arrived) report("BARRIER that lanes are missing from", in, 0);
            w.arrived |= go;
            return;
        case CLUSTER_WAIT:
            if (w.arrived != ALL || go != ALL) report("BARRIER that lanes are missing from", in, 0);
            FOR_LANES(l, go) w.state[l] = AT_CLUSTER_BARRIER;
            return;
        case GRID_WAIT: w.dependent |= go; return;
        case GRID_LAUNCH: return;
        case COMMIT: FOR_LANES(l, go) ++w.group[l]; return;
        case WAIT: FOR_LANES(l, go) wait_for_copies(w, l, in, (u32)in.operands[0].value); return;
        case COPY: {
            Row rooms[4];
            const u32* to = read<u32>(w, in.operands[0], rooms[0]);
            const u64* from = read<u64>(w, in.operands[2], rooms[1]);
            const u32 *size = read<u32>(w, in.operands[4], rooms[2]), *wanted = read<u32>(w, in.operands.back(), rooms[3]);
            FOR_LANES(l, go) start_copy(w, l, in, to[l] + in.operands[1].value, from[l] + in.operands[3].value, size[l], wanted[l]);
            return;
        }
        case PREFETCH: {
            Row room;
            const u64* at = read<u64>(w, in.operands[0], room);
            u64 offset = in.operands[1].value;
            FOR_LANES(l, go) {
                bool inside = false;
                for (const Range& range : ranges) inside |= at[l] + offset >= range.from && at[l] + offset < range.to;
                if (!inside) report("OUT OF BOUNDS prefetch", in, l);
            }
            return;
        }
        case MAPA: return map2<u32, u32, u32>(w, in, go, [](u32 at, u32 rank) { return (at & ((1u << RANK) - 1)) | (rank + 1) << RANK; });
        case MMA:
            if (go != ALL) return report("MULTIPLY that lanes are missing from", in, 0);
            return multiply(w, in);
        case SHFL: return shuffle(w, in, go);
        case LD: case ST: return memory(w, in, go);
        case CVT: return convert(w, in, go);
        case SETP: return in.type == F32 ? compare<float>(w, in, go) : in.type == F64 ? compare<double>(w, in, go)
                        : in.type == S64 ? compare<s64>(w, in, go) : size_of(in.type) == 8 ? compare<u64>(w, in, go)
                        : in.type == S32 ? compare<s32>(w, in, go) : in.type == S16 ? compare<s32>(w, in, go) : compare<u32>(w, in, go);
        case SELP: return size_of(in.type) == 8 ? select<u64>(w, in, go) : select<u32>(w, in, go);
        default: break;
        }
        if (in.type == PRED) return predicates(w, in, go);
        bool number = in.op != MOV && in.op != AND && in.op != OR;
        if (number && in.type == F32) return float32(w, in, go);
        if (number && in.type == F64) return float64(w, in, go);
        if (size_of(in.type) == 8) return integer<u64, false>(w, in, go);
        return size_of(in.type) == 4 ? integer<u32, false>(w, in, go) : integer<u32, true>(w, in, go);
    }

    void shuffle(Warp& w, const Instruction& in, u32 go) {
        Row rooms[4];
        const u32* from[4];
        for (int i = 0; i < 4; ++i) from[i] = read<u32>(w, in.operands[1 + i], rooms[i]);
        u32 to[LANES] = {}, inside = 0;
        FOR_LANES(l, go) {
            u32 other = l ^ (from[1][l] & 31), members = from[3][l], segment = from[2][l] >> 8 & 31;
            u32 last = (l & segment) | ((from[2][l] & 31) & ~segment);
            if ((members & go) != members) report("SHUFFLE that lanes are missing from", in, l);
            if (other <= last) inside |= 1u << l; else other = l;
            to[l] = from[0][other];
        }
        write(w, in.operands[0], to, go);
        if (in.operands.size() > 5) set_predicate(w, in.operands[5], inside, go);
    }

    // --- warps, blocks, clusters

    // Runs a warp until it waits or ends, for at most so many steps. Says whether it did anything.
    bool run(Warp& w, u64 budget) {
        bool did = false;
        u32 lanes = w.running(), here = 0;
        int pc = 0;
        while (lanes && budget--) {
            if (here != lanes || !did) {  // else they are all at the next instruction
                pc = INT32_MAX;
                for (int l = 0; l < LANES; ++l) pc = std::min(pc, lanes >> l & 1 ? w.pc[l] : INT32_MAX);
                here = 0;
                for (int l = 0; l < LANES; ++l) here |= (u32)(w.pc[l] == pc) << l;
                here &= lanes;
            }
            Instruction& in = kernel->code[pc];
            step(w, in, here);
            did = true;
            ++pc;
            if (in.op == BRA || in.op == RET || in.op == BAR || in.op == CLUSTER_WAIT) lanes = w.running(), here = 0;
        }
        return did;
    }

    void begin(Block& b, int number, int rank) {
        b.number = number, b.rank = rank, b.x = number % grid_x, b.y = number / grid_x, b.epoch = 1, b.left = 0;
        b.shared.assign(kernel->shared_bytes + 64, 0xAD);
        if (checked) b.words.assign(kernel->shared_bytes / 4 + 16, Word());
        b.warps.resize(threads / LANES);
        for (Warp& w : b.warps) {
            w.registers.resize(kernel->registers);
            w.defined.assign(kernel->registers, 0);
            w.arrived = w.dependent = 0;
            for (int l = 0; l < LANES; ++l) {
                w.pc[l] = 0, w.state[l] = RUNNING, w.group[l] = 0;
                w.pending[l].clear();
            }
        }
    }

    // Whether all of the block's threads that are there wait at the barrier: lets them go on.
    bool release(Block& b) {
        u32 at_barrier = 0;
        int pc = -1;
        bool same = true;
        for (Warp& w : b.warps)
            for (int l = 0; l < LANES; ++l) {
                if (w.state[l] != AT_BARRIER) continue;
                ++at_barrier;
                same &= pc < 0 || pc == w.pc[l];
                pc = w.pc[l];
            }
        if (!at_barrier || at_barrier + b.left < threads) return false;
        block = &b;
        if (b.left) report("BARRIER that lanes are missing from", kernel->code[pc - 1], 0, "threads have left");
        if (!same) report("DIFFERENT BARRIERS at once", kernel->code[pc - 1], 0);
        for (Warp& w : b.warps) for (State& state : w.state) if (state == AT_BARRIER) state = RUNNING;
        ++b.epoch;
        return true;
    }

    bool release_cluster() {
        int waiting = 0, others = 0;
        for (Block& b : cluster)
            for (Warp& w : b.warps)
                for (State state : w.state) waiting += state == AT_CLUSTER_BARRIER, others += state == RUNNING || state == AT_BARRIER;
        if (!waiting || others) return false;
        for (Block& b : cluster) {
            ++b.epoch;
            for (Warp& w : b.warps) {
                w.arrived = 0;
                for (State& state : w.state) if (state == AT_CLUSTER_BARRIER) state = RUNNING;
            }
        }
        ++cluster_epoch;
        return true;
    }

    void run_cluster(int first) {
        cluster_epoch = 0;
        cluster.resize(kernel->cluster);
        for (int rank = 0; rank < kernel->cluster; ++rank) begin(cluster[rank], first + rank, rank);
        std::vector<std::pair<Block*, int>> turns;
        for (Block& b : cluster) for (int w = 0; w < (int)b.warps.size(); ++w) turns.push_back({&b, w});
        if (order == 1) std::reverse(turns.begin(), turns.end());
        for (bool progress = true; progress;) {
            progress = false;
            if (order >= 2) std::shuffle(turns.begin(), turns.end(), random);
            for (auto& turn : turns) {
                block = turn.first, warp_number = turn.second;
                progress |= run(block->warps[warp_number], order <= 1 ? ~0ull : order == 2 ? 1 : 1 + random() % 200);
            }
            for (Block& b : cluster) progress |= release(b);
            progress |= release_cluster();
        }
        for (Block& b : cluster) if (b.left < threads) throw std::runtime_error("deadlock: threads wait for others that never come");
    }

    void launch(Kernel& which) {
        kernel = &which;
        ++launch_number;
        steps = 0;
        for (Array& array : arrays) array.words.clear();
        int blocks = grid_x * grid_y;
        if (grid_x % kernel->cluster) throw std::runtime_error("a grid that clusters do not divide");
        std::vector<int> firsts;
        for (int i = 0; i < blocks; i += kernel->cluster) firsts.push_back(i);
        if (order == 1) std::reverse(firsts.begin(), firsts.end());
        if (order >= 2) std::shuffle(firsts.begin(), firsts.end(), random);
        for (int i : firsts) run_cluster(i);
    }
};

Machine machine;
std::string said;

}  // namespace

// --- what emulator.py calls --------------------------------------------------------------------------------------------

extern "C" {

int kernel_new(const char* name, int registers, int shared_bytes, int cluster) {
    machine.kernels.emplace_back(new Kernel{name, {}, {}, {}, registers, shared_bytes, cluster});
    return (int)machine.kernels.size() - 1;
}

void kernel_shared(int number, u64 from, u64 to) { machine.kernels[number]->shared.push_back({from, to}); }

int kernel_add(int number, const char* name, int predicate, int negated, int count, const int* kinds, const u64* values, int target,
               int line, int source) {
    Kernel& kernel = *machine.kernels[number];
    Instruction in;
    if (!decode(in, name)) return -1;
    in.predicate = predicate, in.negated = negated, in.target = target, in.line = line, in.source = source;
    for (int i = 0; i < count; ++i) {
        Operand operand = {(Operand::Kind)kinds[i], values[i], nullptr, nullptr};
        if (operand.kind == Operand::CONSTANT) {
            kernel.constants.emplace_back();
            kernel.constants.emplace_back();
            operand.narrow = &kernel.constants[kernel.constants.size() - 2], operand.wide = &kernel.constants.back();
            for (int l = 0; l < LANES; ++l) {
                lanes_of<u32>(*operand.narrow)[l] = (u32)operand.value;
                lanes_of<u64>(*operand.wide)[l] = operand.value;
            }
        }
        in.operands.push_back(operand);
    }
    kernel.code.push_back(in);
    return 0;
}

void set_arrays(int count, u8** hosts, const u64* bases, const u64* bytes) {
    machine.arrays.clear();
    for (int i = 0; i < count; ++i) machine.arrays.push_back({hosts[i], bases[i], bytes[i], {}});
}

void set_ranges(int count, const u64* from, const u64* to, const int* array, const int* writable) {
    machine.ranges.clear();
    for (int i = 0; i < count; ++i) machine.ranges.push_back({from[i], to[i], array[i], writable[i] != 0});
}

// order: 0 warps one after the other, 1 the last first, 2 an instruction each in turn, 3 random slices.
// tensor_cores: 0 exact sums, 1 sums cut off. approximately: units of the last place that .approx may be off by.
void set_options(int order, int tensor_cores, int approximately, int checked) {
    machine.order = order, machine.tensor_cores = tensor_cores, machine.approximately = approximately;
    machine.checked = checked;
    machine.random.seed(order);
}

// `first_wide`: the number of the first register of 64 bits; those before have fewer. Returns what was found, a line each; nothing
// if all is right.
const char* launch(int number, int x, int y, int threads, int first_wide, const u8* parameters, int bytes) {
    machine.grid_x = x, machine.grid_y = y, machine.threads = threads;
    machine.parameters = parameters, machine.parameter_bytes = bytes, machine.first_wide = first_wide;
    machine.reports.clear();
    said.clear();
    try {
        machine.launch(*machine.kernels[number]);
    } catch (const std::runtime_error& problem) {
        said = problem.what() + (" | " + machine.kernel->name) + "\n";
    }
    for (auto& report : machine.reports) said += report.second.first + " | times " + std::to_string(report.second.second) + "\n";
    return said.c_str();
}

// Of the last launch: for each word of an array 1 if read, plus 2 if written, plus 4 if before griddepcontrol.wait.
void footprint(int array, u8* out) {
    Array& it = machine.arrays[array];
    for (size_t i = 0; i < it.bytes / 4; ++i) {
        if (it.words.empty()) { out[i] = 0; continue; }
        bool read = it.words[i].read.launch == machine.launch_number, write = it.words[i].write.launch == machine.launch_number;
        out[i] = read | write << 1 | ((read || write) && it.words[i].early) << 2;
    }
}

}  // extern "C"
