"""The ways to run a layer. Each module has NAME, supports, declines and describe; see `fastrnn.dispatch.Backend`."""
