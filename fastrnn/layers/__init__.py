"""The torch.nn contract: LSTM, GRU and RNN, and their cells."""
