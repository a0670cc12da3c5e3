"""The ways to run a scan: a file each, whose `BACKEND` is a `fastrnn.scan.problem.Backend`, and what those use."""
