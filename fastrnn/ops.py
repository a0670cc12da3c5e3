"""fastrnn's operators, which exported programs and traces hold: `import fastrnn.ops` before such a one is loaded."""

from fastrnn.graphs import node
from fastrnn.scan import flops, operators

__all__ = ["node", "operators"]

flops.register()  # they are defined by now
