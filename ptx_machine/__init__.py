"""A PTX machine: it runs the PTX that Triton compiles, in NumPy, with no GPU. See README.md."""

from ptx_machine.driver import Launch, on_machine
from ptx_machine.errors import FaultError, RefusedError
from ptx_machine.machine import Machine
from ptx_machine.report import Race, Report

__all__ = ["FaultError", "Launch", "Machine", "Race", "RefusedError", "Report", "on_machine"]
