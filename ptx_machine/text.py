"""PTX as text: one kernel's instructions, labels, registers, parameters and shared arrays.

Names are those of the PTX manual. What a pair of braces inside a kernel declares, registers and labels, is its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from ptx_machine.errors import RefusedError

_LABEL = re.compile(r"([$\w]+):(?!:)\s*")
_STATEMENT = re.compile(r"(?:@(!?%?[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_NAME = re.compile(r"(?<![\w.%$])%?[a-zA-Z_$][\w$]*")


@dataclass(eq=False)
class Instruction:
    """One instruction, `@guard name.modifier.modifier operands`, and where it is.

    Attributes:
        pc: its number in the kernel.
        line: of the PTX, from 1.
        where: in the source, as the compiler's comment has it; "" where it has none.
        text: all of it.
        name, modifiers: of the opcode, without dots.
        operands: as written; a vector in braces and an address in brackets are one each.
        guard: "", "%p" or "!%p".
    """

    pc: int
    line: int
    where: str
    text: str
    name: str
    modifiers: list[str]
    operands: list[str]
    guard: str

    @property
    def opcode(self) -> str:
        return ".".join([self.name, *self.modifiers])

    def __str__(self) -> str:
        return f"PTX line {self.line}: {self.text}   [{self.where}]"

    def refuse(self, why: str = "not modelled") -> NoReturn:
        raise RefusedError(f"{why}: {self}")

    def only(self, *allowed: str) -> None:
        """Refuse every modifier that is not `allowed`."""
        for modifier in self.modifiers:
            if modifier not in allowed:
                self.refuse(f"modifier .{modifier}")


@dataclass
class Kernel:
    """A kernel's text, taken apart.

    Attributes:
        instructions: in order.
        labels: the instruction that each stands before.
        registers: their types, by name or by the prefix that `%r<9>` declares.
        parameters: names, in order.
        arrays: names of arrays in shared memory whose size the launch gives; they start where it does.
    """

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)


@dataclass
class _Scope:
    """A pair of braces: what it declares, and the instructions in it."""

    number: int
    names: set[str] = field(default_factory=set)
    instructions: list[Instruction] = field(default_factory=list)

    def rename(self, text: str) -> str:
        """Its own names in `text`, as the whole kernel knows them."""
        return _NAME.sub(lambda found: f"{found[0]}.{self.number}" if found[0] in self.names else found[0], text)


def parse(ptx: str) -> Kernel:
    """The one kernel in `ptx`.

    Raises:
        RefusedError: a statement that is none, or sized arrays of shared memory.
    """
    head, _, body = ptx.partition("\n{\n")
    if sized := re.search(r"\.shared\s[^;]*\[\d+\]", ptx):
        raise RefusedError(f"an array of shared memory whose size is in the PTX: {sized[0]}")
    kernel = Kernel(
        parameters=re.findall(r"\.param\s+\.\w+[^,()\n]*?\s(\w+)(?=\s*[,)\n])", head),
        arrays=re.findall(r"\.shared\s.*?(\w+)\[\]", head),
    )
    return _Parser(kernel).read(body, head.count("\n") + 3)


class _Parser:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes = [_Scope(0)]
        self.count = 0  # of scopes so far
        self.where = ""

    def read(self, body: str, first: int) -> Kernel:
        rest = ""
        for number, line in enumerate(body.split("\n"), first):
            code, _, comment = line.partition("//")
            if ".loc" in code:
                self.where = comment.strip()
                continue
            rest += " " + code
            while rest := rest.lstrip():  # inline assembly has several statements on a line, or one on several
                if rest[0] in "{}":
                    if not self._brace(rest[0]):
                        return self.kernel
                    rest = rest[1:]
                elif label := _LABEL.match(rest):
                    self.kernel.labels[self._declare(label[1])] = len(self.kernel.instructions)
                    rest = rest[label.end() :]
                elif ";" in rest:
                    text, _, rest = rest.partition(";")
                    self._statement(" ".join(text.split()), number)
                else:
                    break
        return self.kernel

    def _brace(self, brace: str) -> bool:
        """Open a scope, or close one; False where it was the kernel's."""
        if brace == "{":
            self.count += 1
            self.scopes.append(_Scope(self.count))
            return True
        scope = self.scopes.pop()
        for one in scope.instructions:  # only now are all of its labels known
            one.operands = [scope.rename(operand) for operand in one.operands]
            one.guard = scope.rename(one.guard)
        if self.scopes:
            self.scopes[-1].instructions += scope.instructions
        return bool(self.scopes)

    def _declare(self, name: str) -> str:
        """The name as the whole kernel knows it."""
        scope = self.scopes[-1]
        if not scope.number:
            return name
        scope.names.add(name)
        return f"{name}.{scope.number}"

    def _statement(self, text: str, number: int) -> None:
        if text.startswith(".reg"):
            _, kind, names = text.split(None, 2)
            for name in re.findall(r"%?[a-zA-Z_$][\w$]*", names):
                self.kernel.registers[self._declare(name)] = kind[1:]
        elif text and not text.startswith((".pragma", ".file")):
            found = _STATEMENT.fullmatch(text)
            if found is None:
                raise RefusedError(f"PTX line {number}: {text}")
            guard, opcode, operands = found.groups("")
            name, *modifiers = opcode.split(".")
            parts = [o.strip() for o in _OPERAND.findall(operands)]
            pc = len(self.kernel.instructions)
            one = Instruction(pc, number, self.where, text, name, modifiers, parts, guard)
            self.kernel.instructions.append(one)
            self.scopes[-1].instructions.append(one)
