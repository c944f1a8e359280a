"""PTX as text, taken apart for ``emulator.cpp``: a kernel's parameters, variables in shared memory, and instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

SIZES = {
    **dict.fromkeys(("b8", "u8", "s8"), 1), **dict.fromkeys(("b16", "u16", "s16"), 2),
    **dict.fromkeys(("b32", "u32", "s32", "f32"), 4), **dict.fromkeys(("b64", "u64", "s64", "f64"), 8),
}  # fmt: skip
_GAP = 4096  # bytes between two variables in shared memory, so that what leaves one does not hit another

REGISTER, CONSTANT, SPECIAL = range(3)  # kinds of operands, as in emulator.cpp
_SPECIALS = (
    "%tid.x", "%tid.y", "%tid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%ntid.x",
    "%ntid.y", "%ntid.z", "%laneid", "%cluster_ctarank", "%cluster_nctarank",
)  # fmt: skip

_NOTHING = (".shared", ".pragma")  # how lines begin that do nothing, or have been read before

_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)*(?:\d+\s+)?)?(\w+)")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(%\w+)(?:<(\d+)>)?;")
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\];")
_HALVES = re.compile(
    r"(?:\{\s*\.reg\s+\.b32\s+(\w+);\s*)?mov\.b64\s+\{\s*([%\w]+),\s*([%\w]+)\s*\},\s*(%\w+);(?:\s*\})?$"
)
_WHOLE = re.compile(r"mov\.b64\s+(%\w+),\s*\{\s*(%\w+),\s*(%\w+)\s*\};$")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*);$")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{}\[\]]+")


class Instruction(NamedTuple):
    name: str
    predicate: int  # a register, or -1
    negated: bool
    kinds: list[int]
    values: list[int]
    target: int  # of a branch: an instruction's number
    line: int  # of the PTX
    source: int  # of the CUDA C++


@dataclass
class Program:
    """One kernel."""

    name: str
    parameters: list[tuple[str, int]] = field(default_factory=list)  # type, and where in the bytes of all of them
    parameter_bytes: int = 0
    registers: int = 0
    first_wide: int = 0  # the number of the first register of 64 bits
    shared: list[tuple[int, int]] = field(default_factory=list)  # from, to
    shared_bytes: int = 0
    cluster: int = 1  # blocks
    threads: int = 0  # the most that a block may have; 0: not said
    code: list[Instruction] = field(default_factory=list)


def kernels_of(ptx: str) -> dict[str, tuple[int, str]]:
    """Every kernel's text, from behind its name to its end, and the line that begins with it."""
    found = {}
    for entry in re.finditer(r"\.visible\s+\.entry\s+(\w+)\(", ptx):
        end = ptx.index("\n}", entry.end())
        found[entry[1]] = ptx.count("\n", 0, entry.end()) + 1, ptx[entry.end() : end]
    return found


def parse(name: str, first_line: int, text: str) -> Program:
    """Raises SyntaxError for what it does not know, such as local memory: the kernels need none."""
    return _Parser(name).parse(first_line, text)


class _Parser:
    def __init__(self, name: str) -> None:
        self.program = Program(name)
        self._parameters: dict[str, int] = {}
        self._registers: dict[str, int] = {}
        self._symbols: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._raw: list[tuple[re.Match[str] | tuple[str, str, str, str], int, int]] = []

    def parse(self, first_line: int, text: str) -> Program:
        head, _, body = text.partition("\n{")
        self._head(head)
        self._declare(body)
        line = first_line + head.count("\n") + 1
        source = 0
        for raw in body.split("\n"):
            statement = raw.partition("//")[0].strip()
            if statement.startswith(".loc"):
                source = int(statement.split()[2]) or source
            elif (
                statement
                and statement not in "{}"
                and not _REGISTERS.match(statement)
                and not statement.startswith(_NOTHING)
            ):
                self._statement(statement, line, source)
            line += 1
        for (negated, predicate, op, rest), at, where in self._raw:
            self.program.code.append(self._instruction(negated, predicate, op, rest, at, where))
        return self.program

    def _head(self, head: str) -> None:
        program = self.program
        for kind, name in _PARAMETER.findall(head):
            start = -(-program.parameter_bytes // SIZES[kind]) * SIZES[kind]
            self._parameters[name] = start
            program.parameters.append((kind, start))
            program.parameter_bytes = start + SIZES[kind]
        if found := re.search(r"\.maxntid\s+(\d+)", head):
            program.threads = int(found[1])
        if found := re.search(r"\.reqnctapercluster\s+(\d+)", head):
            program.cluster = int(found[1])

    def _declare(self, body: str) -> None:
        program = self.program
        declared = [(SIZES.get(kind, 4) == 8, name, count) for kind, name, count in _REGISTERS.findall(body)]
        program.first_wide = -1
        for wide, name, count in sorted(declared, key=lambda each: each[0]):
            if wide and program.first_wide < 0:
                program.first_wide = len(self._registers)
            for each in [f"{name}{number}" for number in range(int(count))] if count else [name]:
                self._registers[each] = len(self._registers)
        program.registers = len(self._registers)
        if program.first_wide < 0:
            program.first_wide = program.registers
        end = _GAP
        for align, name, size in _SHARED.findall(body):
            start = -(-end // int(align)) * int(align)
            self._symbols[name] = start
            program.shared.append((start, start + int(size)))
            end = start + int(size) + _GAP
        program.shared_bytes = end

    def _statement(self, statement: str, line: int, source: int) -> None:
        if label := re.match(r"(\$?[\w$]+):$", statement):
            self._labels[label[1]] = len(self._raw)
        elif halves := _HALVES.match(statement):
            unused, low, high, whole = halves.groups()
            if low not in (unused, "_"):
                self._raw.append((("", "", "cvt.u32.u64", f"{low}, {whole}"), line, source))
            if high not in (unused, "_"):
                shifted = self._wide_register(line)
                self._raw.append((("", "", "shr.u64", f"{shifted}, {whole}, 32"), line, source))
                self._raw.append((("", "", "cvt.u32.u64", f"{high}, {shifted}"), line, source))
        elif whole := _WHOLE.match(statement):
            to, low, high = whole.groups()
            upper = self._wide_register(line)
            self._raw.append((("", "", "cvt.u64.u32", f"{upper}, {high}"), line, source))
            self._raw.append((("", "", "shl.b64", f"{upper}, {upper}, 32"), line, source))
            self._raw.append((("", "", "cvt.u64.u32", f"{to}, {low}"), line, source))
            self._raw.append((("", "", "or.b64", f"{to}, {to}, {upper}"), line, source))
        elif found := _INSTRUCTION.match(statement):
            negated, predicate, op, rest = found.groups()
            self._raw.append(((negated or "", predicate or "", op, rest), line, source))
        else:
            raise SyntaxError(f"{self.program.name}, line {line}: {statement}")

    def _wide_register(self, line: int) -> str:
        name = f"%halves{line}"
        if name not in self._registers:
            self._registers[name] = self.program.registers
            self.program.registers += 1
        return name

    def _instruction(self, negated: str, predicate: str, op: str, rest: str, line: int, source: int) -> Instruction:
        register, no = self._registers[predicate] if predicate else -1, bool(negated)
        if op.startswith("bra"):
            return Instruction(op, register, no, [], [], self._labels[rest.strip()], line, source)
        operands: list[tuple[int, int]] = []
        second_result = ""  # behind all others
        for token in _OPERAND.findall(rest):
            if token[0] == "{":
                operands += [self._operand(each, op, line) for each in token[1:-1].split(",")]
            elif token[0] == "[":
                base, _, offset = token[1:-1].partition("+")
                operands += [self._operand(base, op, line), (CONSTANT, int(offset or 0) % 2**64)]
            else:
                token, _, second_result = token.partition("|") if "|" in token else (token, "", second_result)
                operands.append(self._operand(token, op, line))
        if second_result:
            operands.append(self._operand(second_result, op, line))
        kinds, values = [kind for kind, _ in operands], [value for _, value in operands]
        return Instruction(op, register, no, kinds, values, -1, line, source)

    def _operand(self, token: str, op: str, line: int) -> tuple[int, int]:
        token = token.strip()
        if token in self._registers:
            return REGISTER, self._registers[token]
        if token in _SPECIALS:
            return SPECIAL, _SPECIALS.index(token)
        for table in (self._parameters, self._symbols):
            if token in table:
                return CONSTANT, table[token]
        if re.fullmatch(r"0[fFdD][0-9A-Fa-f]+", token):
            return CONSTANT, int(token[2:], 16)
        if re.fullmatch(r"-?(\d+|0x[0-9a-fA-F]+)U?", token):
            return CONSTANT, int(token.rstrip("U"), 0) % 2**64
        raise SyntaxError(f"{self.program.name}, line {line}: {token!r} of {op}")
