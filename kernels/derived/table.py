"""The counts of the cells whose steps are here, by `python -m fastrnn.cells.generate`."""

from typing import Any

TABLE: dict[str, dict[str, Any]] = {
    "lstm": {"gates": 4, "states": 2, "saved": 4, "splits_bias": False, "inner": 0},
    "gru": {"gates": 3, "states": 1, "saved": 4, "splits_bias": True, "inner": 0},
    "gru_textbook": {"gates": 3, "states": 1, "saved": 3, "splits_bias": False, "inner": 1},
    "rnn_tanh": {"gates": 1, "states": 1, "saved": 0, "splits_bias": False, "inner": 0},
    "rnn_relu": {"gates": 1, "states": 1, "saved": 0, "splits_bias": False, "inner": 0},
}
