"""What goes wrong: a kernel does what it must not, or something that the machine does not know."""


class FaultError(Exception):
    """What a GPU would stop at, or should: the message names PTX line, source line, program and thread."""


class RefusedError(Exception):
    """An instruction, or a modifier of one, that the machine does not model."""
