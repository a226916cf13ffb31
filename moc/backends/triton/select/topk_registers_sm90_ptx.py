"""PTX of `topk_registers_sm90.py`: a thread and its three neighbours find the k best scores of two rows in their
registers.

Every warp works by itself, without barriers. A row's threshold t lies below its k-th best score and not below the next.
It is searched by counting the scores above a guess: first the quantile of a normal distribution, then interpolation
between two counts (regula falsi). Once a count is off by at most NEAR, the scores in between are passed one by one,
which takes as long as counting and always terminates.
"""

from __future__ import annotations

import math
import struct

NEAR = 3  # scores that are passed one by one
GUESSES = 32  # before a search is given up; the row is then left to `topk_exact.py`


def exactly(x: float) -> str:
    """A number of 32 bits as PTX writes it."""
    return f"0f{struct.unpack('>I', struct.pack('>f', x))[0]:08X}"


LOWEST = exactly(-3e38)  # below all scores of chunks that may be chosen
ZERO, HALF, ONE = exactly(0), exactly(0.5), exactly(1)


class Text:
    """Lines of PTX, and registers as they are asked for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.registers: dict[str, str] = {}

    def __call__(self, *lines: str) -> None:
        self.lines += lines

    def new(self, kind: str, *names: str) -> None:
        self.registers |= dict.fromkeys(names, kind)

    def over_four(self, operation: str, name: str) -> None:
        """The same for all four threads of a row."""
        for step in (1, 2):
            self(f"shfl.sync.bfly.b32 other, {name}, {step}, 31, -1;", f"{operation} {name}, {name}, other;")

    def __str__(self) -> str:
        declared = [f".reg .{kind} {name};" for name, kind in self.registers.items()]
        return "{\n" + "\n".join(declared + self.lines) + "\n}"


def choosing(passes: int) -> tuple[str, str]:
    """PTX and operands for scores of `passes` times 64 chunks.

    Operands: threshold (4), number of chosen chunks (4); scores (32 a pass); place of the row's first word (4), words
    to write (4; none where the row is not there), k (4), bytes from word to word (4). Of four in a row the first two
    belong to a thread's first row. Bit c % 32 of word c // 32 says that chunk c is chosen.
    """
    text = Text()
    at = 8 + 32 * passes
    scores = {
        row: [f"${8 + 4 * i + 2 * n + e}" for i in range(8 * passes) for e in (0, 1)] for n, row in enumerate("ab")
    }
    place = {row: f"${at + 2 * n}" for n, row in enumerate("ab")}
    wanted = {row: f"${at + 4 + 2 * n}" for n, row in enumerate("ab")}
    k, stride = f"${at + 8}", f"${at + 12}"

    text.new("pred", "p", "q")
    text.new("b32", "other", "step", "bit", "mine")
    text.new("f32", "d", "x", "y", "kf")
    for name in ("t", "lo", "hi", "slope", "some", "sum", "square", "sign", "minus", "away"):
        text.new("f32", f"{name}_a", f"{name}_b")
    for name in ("n", "above", "below", "left", "near", "count"):
        text.new("s32", f"{name}_a", f"{name}_b")
    _guess(text, scores, k)
    _count(text, scores, k, passes)
    _pass_by(text, scores, k)
    _write(text, scores, place, wanted, k, stride, passes)
    for i, r in enumerate("ab"):
        for e in (0, 1):
            text(f"mov.f32 ${2 * i + e}, t_{r};", f"mov.b32 ${4 + 2 * i + e}, count_{r};")
    inputs = ["f"] * (32 * passes) + ["l"] * 4 + ["r"] * 12
    return str(text), ",".join(["=f"] * 4 + ["=r"] * 4 + inputs)


def _guess(text: Text, scores: dict[str, list[str]], k: str) -> None:
    """Where the threshold were if the scores that may be chosen were normal, and how much it moves with the count."""
    for r in "ab":  # differences to some score: of large scores that are nearly alike squares would tell nothing
        text(f"mov.f32 some_{r}, {scores[r][0]};", *(f"max.f32 some_{r}, some_{r}, {s};" for s in scores[r][16::16]))
        text.over_four("max.f32", f"some_{r}")
        text(
            f"setp.gt.f32 p, some_{r}, {LOWEST};", f"selp.f32 some_{r}, some_{r}, {ZERO}, p;",
            f"mov.f32 sum_{r}, {ZERO};", f"mov.f32 square_{r}, {ZERO};", f"mov.s32 n_{r}, 0;",
        )  # fmt: skip
    for pair in zip(*scores.values(), strict=True):
        for r, s in zip("ab", pair, strict=True):
            text(
                f"setp.gt.f32 p, {s}, {LOWEST};", f"sub.f32 d, {s}, some_{r};", f"@p add.f32 sum_{r}, sum_{r}, d;",
                f"@p fma.rn.f32 square_{r}, d, d, square_{r};", f"@p add.s32 n_{r}, n_{r}, 1;",
            )  # fmt: skip
    text(f"cvt.rn.f32.s32 kf, {k};")
    for r in "ab":
        for name, operation in (("sum", "add.f32"), ("square", "add.f32"), ("n", "add.s32")):
            text.over_four(operation, f"{name}_{r}")
        text(
            f"cvt.rn.f32.s32 x, n_{r};", "rcp.approx.f32 x, x;",
            f"mul.f32 sum_{r}, sum_{r}, x;", f"mul.f32 square_{r}, square_{r}, x;",
            f"neg.f32 y, sum_{r};", f"fma.rn.f32 square_{r}, y, sum_{r}, square_{r};",
            f"max.f32 square_{r}, square_{r}, {exactly(1e-20)};",
            f"sqrt.approx.f32 square_{r}, square_{r};",
            # the normal quantile of 1 - k / n (Abramowitz and Stegun 26.2.22)
            "mul.f32 x, kf, x;", f"min.f32 x, x, {HALF};", "lg2.approx.f32 x, x;",
            f"mul.f32 x, x, {exactly(-2 * math.log(2))};",
            "sqrt.approx.f32 x, x;",
            f"fma.rn.f32 y, x, {exactly(0.04481)}, {exactly(0.99229)};", f"fma.rn.f32 y, y, x, {ONE};",
            f"fma.rn.f32 d, x, {exactly(0.27061)}, {exactly(2.30753)};", "div.approx.f32 d, d, y;", "sub.f32 x, x, d;",
            f"add.f32 sum_{r}, sum_{r}, some_{r};", f"fma.rn.f32 t_{r}, x, square_{r}, sum_{r};",
            f"max.f32 x, x, {exactly(0.4)};", "rcp.approx.f32 y, x;", "add.f32 x, x, y;",
            f"div.approx.f32 slope_{r}, square_{r}, x;", f"mul.f32 slope_{r}, slope_{r}, {exactly(1.1 * math.log(2))};",
            f"mov.s32 above_{r}, 4096;", f"mov.s32 below_{r}, -4096;",
            f"mov.f32 lo_{r}, {LOWEST};", f"mov.f32 hi_{r}, {LOWEST};",
            # all are chosen
            f"setp.le.s32 p, n_{r}, {k};", f"@p mov.s32 above_{r}, {k};", f"@p mov.f32 t_{r}, {LOWEST};",
        )  # fmt: skip


def _counted(text: Text, scores: dict[str, list[str]], size: int) -> dict[str, list[str]]:
    """Registers with a bit for every score, 1 where it is above t: `size` in each, the first one highest."""
    words: dict[str, list[str]] = {r: [] for r in "ab"}
    for r in "ab":
        for first in range(0, len(scores[r]), size):
            words[r].append(f"w{first // size}_{r}")
    text.new("b32", *(w for r in "ab" for w in words[r]))
    for i in range(size):  # side by side: a chain waits for itself
        for j in range(len(words["a"])):
            for r in "ab":
                o = j * size + i
                if o < len(scores[r]):
                    text(f"sub.f32 d, t_{r}, {scores[r][o]};", "mov.b32 bit, d;")
                    if i == 0:
                        text(f"shr.u32 {words[r][j]}, bit, 31;")
                    else:
                        text(f"shf.l.wrap.b32 {words[r][j]}, bit, {words[r][j]}, 1;")
    return words


def _ones(text: Text, words: dict[str, list[str]]) -> None:
    for r in "ab":
        text(f"popc.b32 count_{r}, {words[r][0]};")
        for w in words[r][1:]:
            text(f"popc.b32 other, {w};", f"add.s32 count_{r}, count_{r}, other;")


def _count(text: Text, scores: dict[str, list[str]], k: str, passes: int) -> None:
    """Until the count is near k on one side: lo and above, hi and below."""
    text("mov.b32 step, 0;", "COUNT:")
    words = _counted(text, scores, -(-16 * passes // max(2, -(-passes // 2))))  # few words, but not one: chains wait
    _ones(text, words)
    for r in "ab":
        text.over_four("add.s32", f"count_{r}")
        text(
            f"setp.ge.s32 p, count_{r}, {k};",
            f"@p mov.f32 lo_{r}, t_{r};", f"@p min.s32 above_{r}, above_{r}, count_{r};",
            f"@!p mov.f32 hi_{r}, t_{r};", f"@!p mov.s32 below_{r}, count_{r};",
            f"sub.s32 near_{r}, above_{r}, {k};", f"sub.s32 left_{r}, {k}, below_{r};",
            # one side is known: by the slope, in larger and larger steps
            f"cvt.rn.f32.s32 x, count_{r};", f"add.f32 x, x, {exactly(0.3)};", "div.approx.f32 x, x, kf;",
            "lg2.approx.f32 x, x;", f"fma.rn.f32 t_{r}, x, slope_{r}, t_{r};",
            # both: where the line between meets k; later in the middle, of the scores or of their bits
            f"add.s32 other, near_{r}, left_{r};", "cvt.rn.f32.s32 y, other;", f"cvt.rn.f32.s32 x, near_{r};",
            "div.approx.f32 x, x, y;", f"max.f32 x, x, {exactly(0.05)};", f"min.f32 x, x, {exactly(0.95)};",
            "setp.gt.s32 q, step, 6;", f"@q mov.f32 x, {HALF};",
            f"sub.f32 y, hi_{r}, lo_{r};", f"fma.rn.f32 y, y, x, lo_{r};",
            "and.b32 bit, step, 1;", "setp.ne.and.s32 q, bit, 0, q;",
            f"mov.b32 bit, lo_{r};", "shr.u32 bit, bit, 1;", f"mov.b32 mine, hi_{r};", "shr.u32 mine, mine, 1;",
            f"setp.eq.f32 p, hi_{r}, {ZERO};", "@p mov.b32 mine, 0x40000000;",  # what is below is negative
            "add.s32 bit, bit, mine;", f"setp.lt.f32 p, lo_{r}, {ZERO};",
            f"setp.gt.and.f32 p, hi_{r}, {ZERO}, p;", "@p mov.b32 bit, 0;", "@q mov.b32 y, bit;",
            "setp.lt.s32 q, other, 2048;", f"@q mov.f32 t_{r}, y;",
            f"@!q mul.f32 slope_{r}, slope_{r}, {exactly(1.5)};",
            f"min.s32 near_{r}, near_{r}, left_{r};",
        )  # fmt: skip
    text(
        "max.s32 other, near_a, near_b;", f"setp.gt.s32 p, other, {NEAR};",
        "add.s32 step, step, 1;", f"setp.lt.and.s32 p, step, {GUESSES}, p;",
        "vote.sync.any.pred p, p, -1;", "@p bra COUNT;",
    )  # fmt: skip


def _pass_by(text: Text, scores: dict[str, list[str]], k: str) -> None:
    """The scores between, one at a time: up from lo or down from hi. t always moves on to a number beyond the score: no
    score equals it."""
    for r in "ab":
        text(
            f"sub.s32 near_{r}, above_{r}, {k};", f"sub.s32 left_{r}, {k}, below_{r};",
            f"setp.le.s32 p, near_{r}, left_{r};",
            f"selp.f32 t_{r}, lo_{r}, hi_{r}, p;", f"selp.f32 sign_{r}, {exactly(-1)}, {ONE}, p;",
            f"mul.f32 away_{r}, sign_{r}, {exactly(-(2**-23))};",  # 2**-23: a number further from where t came from
            f"min.s32 left_{r}, near_{r}, left_{r};", f"min.s32 left_{r}, left_{r}, {NEAR};",
            f"setp.gt.s32 p, left_{r}, 0;", f"abs.f32 x, t_{r};", f"@p fma.rn.f32 t_{r}, x, away_{r}, t_{r};",
        )  # fmt: skip
    text("max.s32 other, left_a, left_b;", "setp.gt.s32 p, other, 0;", "vote.sync.any.pred p, p, -1;",
         "@!p bra FOUND;", "NEXT:")  # fmt: skip
    text.new("s32", *(f"m{i}_{r}" for i in range(2) for r in "ab"))
    for r in "ab":
        text(f"mul.f32 minus_{r}, t_{r}, sign_{r};", f"neg.f32 minus_{r}, minus_{r};")
        text(f"mov.s32 m0_{r}, 0x7fffffff;", f"mov.s32 m1_{r}, 0x7fffffff;")
    # How far the next score is: the least negative number, which as an integer is the least of all. Rounded away from
    # t, so that going there never stops short of it
    for i, pair in enumerate(zip(*scores.values(), strict=True)):
        for r, s in zip("ab", pair, strict=True):
            m = f"m{i % 2}_{r}"
            text(f"fma.rm.f32 d, {s}, sign_{r}, minus_{r};", "mov.b32 bit, d;", f"min.s32 {m}, {m}, bit;")
    for r in "ab":
        text(f"min.s32 m0_{r}, m0_{r}, m1_{r};")
        text.over_four("min.s32", f"m0_{r}")
        text(
            f"mov.b32 d, m0_{r};", f"fma.rp.f32 x, d, sign_{r}, t_{r};", f"fma.rm.f32 y, d, sign_{r}, t_{r};",
            f"setp.lt.f32 p, sign_{r}, {ZERO};", "selp.f32 x, x, y, p;",
            "abs.f32 y, x;", f"fma.rn.f32 x, y, away_{r}, x;",
            f"setp.lt.s32 p, m0_{r}, 0;", f"setp.gt.and.s32 p, left_{r}, 0, p;",
            f"@p mov.f32 t_{r}, x;", f"sub.s32 left_{r}, left_{r}, 1;",
        )  # fmt: skip
    text("max.s32 other, left_a, left_b;", "setp.gt.s32 p, other, 0;", "vote.sync.any.pred p, p, -1;",
         "@p bra NEXT;", "FOUND:")  # fmt: skip


def _write(text: Text, scores: dict[str, list[str]], place, wanted, k: str, stride: str, passes: int) -> None:
    """A bit for every score above t, or none where these are more than k. Of four words thread t writes the t-th."""
    text.new("b64", "a_a", "a_b", "four")
    text.new("b32", "x0", "x1", "x2", "x3", "twice")
    text.new("pred", "odd", "high")
    for r in "ab":
        text(f"setp.eq.s32 p, {wanted[r]}, 0;", f"@p mov.f32 t_{r}, {exactly(math.inf)};")
    words = _counted(text, scores, 32)
    _ones(text, words)
    text(
        "mov.u32 step, %laneid;", "and.b32 step, step, 3;", "shl.b32 twice, step, 1;",
        "and.b32 bit, step, 1;", "setp.ne.s32 odd, bit, 0;", "and.b32 bit, step, 2;", "setp.ne.s32 high, bit, 0;",
        f"mul.wide.s32 four, {stride}, 4;",
    )  # fmt: skip
    for r in "ab":
        text.over_four("add.s32", f"count_{r}")
        text(
            f"mul.wide.s32 a_{r}, step, {stride};", f"add.s64 a_{r}, a_{r}, {place[r]};",
            f"setp.gt.s32 p, count_{r}, {k};", *(f"@p mov.b32 {w}, 0;" for w in words[r]),
        )  # fmt: skip
    for i, pair in enumerate(zip(*words.values(), strict=True)):
        used = min(32, 16 * passes - 32 * i)
        for r, w in zip("ab", pair, strict=True):
            text(f"brev.b32 {w}, {w};", *([f"shr.u32 {w}, {w}, {32 - used};"] if used < 32 else []))
            for j in range(4):
                # eight scores of the thread: columns 0, 1, 8, 9, ... 25 of a word, its neighbours' two further each
                text(
                    f"shr.u32 x{j}, {w}, {8 * j};", f"and.b32 x{j}, x{j}, 255;",
                    f"shl.b32 bit, x{j}, 12;", f"or.b32 x{j}, x{j}, bit;", f"and.b32 x{j}, x{j}, 0xf000f;",
                    f"shl.b32 bit, x{j}, 6;", f"or.b32 x{j}, x{j}, bit;", f"and.b32 x{j}, x{j}, 0x3030303;",
                    f"shl.b32 x{j}, x{j}, twice;",
                )  # fmt: skip
            for keep, give, step, which in (("x0", "x1", 1, "odd"), ("x2", "x3", 1, "odd"), ("x0", "x2", 2, "high")):
                text(
                    f"selp.b32 bit, {keep}, {give}, {which};", f"selp.b32 {keep}, {give}, {keep}, {which};",
                    f"shfl.sync.bfly.b32 bit, bit, {step}, 31, -1;", f"or.b32 {keep}, {keep}, bit;",
                )  # fmt: skip
            text(f"setp.lt.s32 p, step, {wanted[r]};", f"@p st.global.b32 [a_{r}], x0;", f"add.s64 a_{r}, a_{r}, four;")
        text("add.s32 step, step, 4;")
