"""The counts of the cells whose steps are here, by `python -m fastrnn.cells.generate`."""

from typing import Any

TABLE: dict[str, dict[str, Any]] = {
    "lstm": {"gates": 4, "states": 2, "saved": 4, "split_gates": (), "inner": 0, "rests": True},
    "gru": {"gates": 3, "states": 1, "saved": 4, "split_gates": (2,), "inner": 0, "rests": True},
    "gru_textbook": {"gates": 3, "states": 1, "saved": 3, "split_gates": (), "inner": 1, "rests": True},
    "rnn_tanh": {"gates": 1, "states": 1, "saved": 0, "split_gates": (), "inner": 0, "rests": True},
    "rnn_relu": {"gates": 1, "states": 1, "saved": 0, "split_gates": (), "inner": 0, "rests": True},
    "peephole_lstm": {"gates": 4, "states": 2, "saved": 4, "split_gates": (), "inner": 0, "rests": True, "vectors": 3},
    "cifg": {"gates": 3, "states": 2, "saved": 3, "split_gates": (), "inner": 0, "rests": True},
    "mgu": {"gates": 2, "states": 1, "saved": 2, "split_gates": (), "inner": 1, "rests": True},
    "ligru": {"gates": 2, "states": 1, "saved": 2, "split_gates": (), "inner": 0, "rests": True},
    "cfc": {"gates": 4, "states": 1, "saved": 3, "split_gates": (), "inner": 0, "rests": False, "constants": 1},
    "janet": {"gates": 2, "states": 1, "saved": 2, "split_gates": (), "inner": 0, "rests": True},
    "indrnn": {"gates": 1, "states": 1, "saved": 0, "split_gates": (), "inner": 0, "rests": True},
    "slstm": {"gates": 4, "states": 4, "saved": 4, "split_gates": (), "inner": 0, "rests": False, "float32_states": True},
    "lstm_decay": {"gates": 4, "states": 2, "saved": 4, "split_gates": (), "inner": 0, "rests": False, "vectors": 2, "constants": 1},
    "nas": {"gates": 8, "states": 2, "saved": 9, "split_gates": (3,), "inner": 0, "rests": True},
}
