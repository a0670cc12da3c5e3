"""Published packages after `convert`, where they are installed: the same numbers as before, with small random weights.

What each of these does to a layer has a small stand-in in `test_packages.py`, which always runs.
"""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from support import worst_error
from torch import Tensor, nn

import fastrnn

# The packages' own warnings are not this suite's.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CLOSE = 1e-5  # float32, sums in another order


def needs(name: str) -> Any:
    """The module, or a skip: not installed, or built for another torch."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name}: {error}")


def assert_same(before: list[Tensor], after: list[Tensor]) -> None:
    assert worst_error(after, before) < CLOSE


def with_gradients(model: nn.Module, output: Tensor) -> list[Tensor]:
    model.zero_grad()
    output.square().mean().backward()
    return [output.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_resemblyzer() -> None:
    """With the weights that it ships."""
    resemblyzer = needs("resemblyzer")
    encoder, mels = resemblyzer.VoiceEncoder("cpu", verbose=False), torch.rand(3, 160, 40)
    before = with_gradients(encoder, encoder(mels))
    assert fastrnn.convert(encoder).converted == ["lstm"]
    assert_same(before, with_gradients(encoder, encoder(mels)))


def test_torchrl() -> None:
    """Trajectories of unequal length in one batch, for which it looks at the layer's class."""
    rnn, td = needs("torchrl.modules"), needs("tensordict")
    torch.manual_seed(0)
    module = rnn.LSTMModule(input_size=4, hidden_size=5, in_key="x", out_key="y", default_recurrent_mode=True)
    is_init = torch.zeros(3, 9, 1, dtype=torch.bool)
    is_init[:, 0] = True
    is_init[1, 4] = is_init[2, 7] = True
    data = td.TensorDict(
        {
            "x": torch.randn(3, 9, 4),
            "is_init": is_init,
            "recurrent_state_h": torch.zeros(3, 9, 1, 5),
            "recurrent_state_c": torch.zeros(3, 9, 1, 5),
        },
        [3, 9],
    )
    before = with_gradients(module, module(data.clone())["y"])
    assert fastrnn.convert(module).converted == ["lstm"]
    assert_same(before, with_gradients(module, module(data.clone())["y"]))


def test_opacus() -> None:
    """It looks types up exactly: fix first, or be refused by name."""
    validators = needs("opacus.validators")
    model = nn.Sequential(nn.LSTM(4, 5))
    assert validators.ModuleValidator.validate(model, strict=False)
    fastrnn.convert(model)
    assert validators.ModuleValidator.validate(model, strict=False) == []  # passed over: the exact class is another
    fastrnn.revert(model)
    fixed = validators.ModuleValidator.fix(model)
    assert fastrnn.convert(fixed).converted == []
    assert validators.ModuleValidator.validate(fixed, strict=False) == []


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def test_captum() -> None:
    attr = needs("captum.attr")
    model, x = Classifier(), torch.randn(3, 7, 4)

    def attributions() -> list[Tensor]:
        return [
            attr.IntegratedGradients(model).attribute(x, target=1, n_steps=8),
            attr.Saliency(model).attribute(x.clone().requires_grad_(), target=0),
            attr.LayerIntegratedGradients(model, model.head).attribute(x, target=1, n_steps=4),
            attr.DeepLift(model).attribute(x, target=1),
        ]

    before = attributions()
    fastrnn.convert(model)
    assert_same(before, attributions())


def test_lightning(tmp_path: Path) -> None:
    """A training run, its checkpoint, and that loaded into the model as it was before conversion."""
    lightning = needs("pytorch_lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return self.model(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.DataLoader(list(torch.randn(8, 7, 4)), batch_size=4)
    start = Module()
    trained = []
    for convert in (False, True):
        module = copy.deepcopy(start)
        if convert:
            fastrnn.convert(module)
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=convert,
            default_root_dir=tmp_path, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(module, data)
        trained.append([p.detach().clone() for p in module.parameters()])
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert_same(*trained)
    loaded = Module.load_from_checkpoint(tmp_path / "last.ckpt")
    assert_same(trained[0], list(loaded.parameters()))


def test_transformers_initialises_what_a_checkpoint_lacks(tmp_path: Path) -> None:
    """EnCodec's `_init_weights` asks for torch.nn.LSTM."""
    encodec = needs("transformers.models.encodec")
    small = {"num_filters": 4, "hidden_size": 8, "codebook_size": 8, "num_lstm_layers": 1, "upsampling_ratios": [2, 2]}
    config = encodec.EncodecConfig(**small, target_bandwidths=[1.5])

    class Converted(encodec.EncodecModel):  # type: ignore[misc, name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            fastrnn.convert(self)

    model = Converted(config)
    names = [name for name, m in model.named_modules() if isinstance(m, nn.LSTM)]
    assert names
    assert all(isinstance(model.get_submodule(name), fastrnn.LSTM) for name in names)
    state = {key: value for key, value in model.state_dict().items() if "lstm" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = Converted.from_pretrained(tmp_path)
    for name in names:
        for key, parameter in loaded.get_submodule(name).named_parameters():
            assert parameter.abs().max() == 0 if "bias" in key else 0.01 < parameter.abs().max() < 2, (name, key)


def test_flair() -> None:
    """Its tagger: packed rows, and a layer whose class it looks up by name."""
    data, models, embeddings = needs("flair.data"), needs("flair.models"), needs("flair.embeddings")
    sentences = [data.Sentence("a b c d e"), data.Sentence("b c"), data.Sentence("c")]
    labels = data.Dictionary()
    for label in ("X", "Y"):
        labels.add_item(label)
    vocabulary = data.Dictionary()
    for word in "abcde":
        vocabulary.add_item(word)
    for sentence in sentences:
        for token in sentence:
            token.add_label("tag", "X" if token.text in "ace" else "Y")
    embedding = embeddings.OneHotEmbeddings(vocabulary, embedding_length=6)
    tagger = models.SequenceTagger(embedding, labels, "tag", hidden_size=8, use_crf=True, tag_format="BIO")
    tagger.eval()

    def results() -> list[Tensor]:
        for sentence in sentences:
            sentence.clear_embeddings()
        return with_gradients(tagger, tagger.forward_loss(sentences)[0])

    before = results()
    assert fastrnn.convert(tagger).converted == ["rnn"]
    assert tagger.rnn._get_name() == "LSTM"
    assert_same(before, results())


def test_kraken() -> None:
    """Its initialiser asks for torch.nn.LSTM: recurrent weights come out orthogonal."""
    vgsl = needs("kraken.lib.vgsl.model")
    model = vgsl.TorchVGSLModel(vgsl="[1,12,0,1 Cr3,3,4 S1(1x0)1,3 Lbx6 O1c5]")
    x, lengths = torch.rand(2, 1, 12, 20), torch.tensor([20, 13])
    model.nn.eval()
    before = [model.nn(x, lengths)[0]]
    names = fastrnn.convert(model.nn).converted
    assert names
    assert_same(before, [model.nn(x, lengths)[0]])
    torch.manual_seed(1)
    model.init_weights()
    weight = model.nn.get_submodule(names[0]).weight_hh_l0.detach()
    torch.testing.assert_close(weight.t() @ weight, torch.eye(weight.shape[1]))


def test_espnet() -> None:
    """Its language model handles states by whether the layer is a torch.nn.LSTM."""
    lm = needs("espnet2.lm.seq_rnn_lm")
    for kind in ("lstm", "gru"):
        model = lm.SequentialRNNLM(10, unit=8, nlayers=2, rnn_type=kind).eval()

        def scores(model: Any = model) -> list[Tensor]:
            states: list[Any] = [None, None]
            found = []
            for token in ([1, 2], [3, 4], [5, 6]):
                logp, states = model.batch_score(torch.tensor(token)[:, None], states, None)
                found.append(logp)
            return found

        before = scores()
        assert fastrnn.convert(model).converted == ["rnn"]
        assert_same(before, scores())


def test_speechbrain() -> None:
    """Packing by relative lengths."""
    nnet = needs("speechbrain.nnet.RNN")
    for kind in (nnet.LSTM, nnet.GRU, nnet.RNN):
        model = kind(hidden_size=6, input_shape=(3, 9, 4), bidirectional=True)
        x, lengths = torch.randn(3, 9, 4), torch.tensor([1.0, 0.7, 0.3])
        before = with_gradients(model, model(x, lengths=lengths)[0])
        assert fastrnn.convert(model).converted == ["rnn"]
        assert_same(before, with_gradients(model, model(x, lengths=lengths)[0]))


def test_coqui() -> None:
    encoder, tacotron = needs("TTS.encoder.models.lstm"), needs("TTS.tts.layers.tacotron.tacotron2")
    model = encoder.LSTMSpeakerEncoder(8, proj_dim=4, lstm_dim=6, num_lstm_layers=2).eval()
    x = torch.randn(2, 8, 11)
    before = [model(x)]
    assert fastrnn.convert(model).converted
    assert_same(before, [model(x)])
    text = tacotron.Encoder(in_out_channels=8).eval()
    lengths = torch.tensor([11, 6])
    before = with_gradients(text, text(x, lengths))
    assert fastrnn.convert(text).converted == ["lstm"]
    assert_same(before, with_gradients(text, text(x, lengths)))
