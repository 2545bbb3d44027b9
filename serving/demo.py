"""Which models does a newcomer try the gateway with? Real ones, trained here in seconds.

``digits`` reads handwritten digits (scikit-learn's bundled 8x8 images) and has three versions:

- 7 is modest: a logistic regression on the first 150 images that somebody labelled.
- 8 is better: a small neural network on all of the training images.
- 9 is subtly broken: the network of 8, but in half of the sevens the label was recorded as a one.
  On all held-out images together it still beats 7, so a glance at the total lets it pass; on the
  sevens alone it is far worse than either. It is there to be found out by a canary, a shadow or
  the feedback per class, so nothing in the file itself gives it away.

``wine`` tells three cultivars apart by 13 chemical measurements. It has no config.pbtxt, which
shows what is completed from the ONNX file.

All rows of both lie there, too, to make profiles of: those learned and those held out, because a model is
surer of rows that it learned, and live ones would seem to have drifted from these alone.

Everything follows from fixed seeds: the same library versions give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""float32[rows, features]."""
Labels = NDArray[np.int64]
"""int64[rows], the class of each row."""

OPSET = {"": 17, "ai.onnx.ml": 3}
ROWS_OF_7 = 150
SEVENS_SPOILT_IN_9 = 0.5
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

DIGITS_CONFIG = """\
name: "digits"
backend: "onnxruntime"
max_batch_size: 64
output [
  { name: "label", data_type: TYPE_INT64, dims: [ ] },
  { name: "probabilities", data_type: TYPE_FP32, dims: [ 10 ], label_filename: "labels.txt" }
]
dynamic_batching { }

# Version 9 lies beside these two and is not loaded: it is subtly broken (see `turnout demo --help`).
# At the first start the highest version that is loaded gets the traffic, so this keeps it from 9. A
# version that gets traffic or shadows later, by `turnout split` or `turnout shadow`, is loaded for it.
version_policy { specific { versions: [ 7, 8 ] } }
"""

CLIENT = """\
  .venv/bin/python - <<'END'
import json, numpy, tritonclient.http
image = tritonclient.http.InferInput("image", [1, 64], "FP32")
request = json.load(open("{sample}"))
image.set_data_from_numpy(numpy.array([request["inputs"][0]["data"]], "float32"))
client = tritonclient.http.InferenceServerClient("{http}")
answer = client.infer("digits", [image])
print(answer.as_numpy("label"), "by version", answer.get_response()["model_version"])
END"""
"""An unmodified tritonclient, to paste into a shell."""


class DemoError(Exception):
    """The demo cannot be laid out there. The message is meant for the person who asked for it."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to learn from and rows to judge by, never the same."""

    train: Rows
    train_labels: Labels
    held_out: Rows
    held_out_labels: Labels


@dataclass(frozen=True, slots=True)
class Trained:
    """A version of a model before it is a file: what it answers, and what it was trained on."""

    model: str
    version: int
    pipeline: Any
    split: Split
    input_name: str
    rows_trained: int

    def predict(self, rows: Rows) -> Labels:
        """Return the class that this version gives to each of the `rows`."""
        return np.asarray(self.pipeline.predict(rows), np.int64)

    def accuracy(self, only: int | None = None) -> float:
        """Return the share of held-out rows that it gets right, of all or of `only` one class."""
        truth = self.split.held_out_labels
        chosen = np.ones(truth.shape, np.bool_) if only is None else truth == only
        return float((self.predict(self.split.held_out[chosen]) == truth[chosen]).mean())


def build(into: Path) -> list[Trained]:
    """Lay out the demo's repository in `into`/models, sample requests in requests, and all rows in rows.

    Files that are there already stay as they are: an edited config.pbtxt is the user's.

    Raises
    ------
    DemoError
        If a version is there already with other content: a version never changes under its name.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # Sums in one order give the same bytes each time.
        versions = [*digits_versions(), wine_version()]
    for trained in versions:
        _lay_out(into / "models" / trained.model, trained)
    _keep(into / "models" / "digits" / "config.pbtxt", DIGITS_CONFIG.encode())
    _write(into / "models" / "digits" / "labels.txt", ("\n".join(DIGIT_NAMES) + "\n").encode())
    _write(into / "rows" / "digits.npz", as_npz(versions[1]))
    _write(into / "rows" / "wine.csv", as_csv(versions[3]))
    _write(into / "requests" / "wine.json", request(versions[3], row=0))
    # Written last, so that its presence says that the demo is complete.
    _write(into / "requests" / "digits.json", request(versions[1], row=telling_row(*versions[1:3])))
    return versions


def describe(trained: Trained) -> str:
    """Return one line on how good a version is."""
    line = f"{trained.model}@{trained.version}: {trained.accuracy():.1%} of held-out rows right"
    return f"{line}, {trained.accuracy(only=7):.1%} of the sevens" if trained.model == "digits" else line


def what_to_try(models: Path, http: str, metrics: str) -> str:
    """Return commands to copy once the gateway listens on `http` and `metrics`."""
    lines = [
        "try in another terminal:",
        f"  curl -i http://{http}/v2/health/ready",
        f"  curl -s -X POST http://{http}/v2/repository/index",
        f"  curl -s http://{metrics}/metrics",
    ]
    sample = models.parent / "requests" / "digits.json"
    if sample.is_file():
        lines.append(f"  curl -s http://{http}/v2/models/digits/infer --data-binary @{sample}")
        lines.append(CLIENT.format(sample=sample, http=http))
        lines.append("move its traffic:")
        lines.append('  .venv/bin/turnout split digits 8=5% 7=95% --why "a canary"')
        lines.append("  .venv/bin/turnout status digits")
    rows = models.parent / "rows" / "digits.npz"
    if rows.is_file():
        lines.append("see whether its requests change:")
        lines.append(f"  .venv/bin/turnout profile digits@8 --from {rows}")
        lines.append("  .venv/bin/turnout drift digits")
    return "\n".join(lines)


def digits_versions() -> list[Trained]:
    """Train versions 7, 8 and 9 of ``digits``."""
    from sklearn.datasets import load_digits

    split = _split(load_digits)
    few, few_labels = split.train[:ROWS_OF_7], split.train_labels[:ROWS_OF_7]
    spoilt = spoil(split.train_labels, np.random.default_rng(9))
    pipelines = {
        7: (_regression().fit(few, few_labels), ROWS_OF_7),
        8: (_network().fit(split.train, split.train_labels), len(split.train)),
        9: (_network().fit(split.train, spoilt), len(split.train)),
    }
    return [
        Trained("digits", version, pipeline, split, "image", rows)
        for version, (pipeline, rows) in pipelines.items()
    ]


def wine_version() -> Trained:
    """Train the one version of ``wine``."""
    from sklearn.datasets import load_wine

    split = _split(load_wine)
    pipeline = _regression().fit(split.train, split.train_labels)
    return Trained("wine", 1, pipeline, split, "measurements", len(split.train))


def spoil(labels: Labels, random: np.random.Generator) -> Labels:
    """Return `labels` as version 9 learned them: about half of the sevens recorded as ones."""
    unlucky = random.random(labels.shape) < SEVENS_SPOILT_IN_9
    return np.where((labels == 7) & unlucky, np.int64(1), labels)


def telling_row(good: Trained, broken: Trained) -> int:
    """Return a held-out row that `good` gets right and `broken` does not."""
    split = good.split
    right = good.predict(split.held_out) == split.held_out_labels
    wrong = broken.predict(split.held_out) != split.held_out_labels
    return int(np.flatnonzero(right & wrong)[0])


def request(trained: Trained, row: int) -> bytes:
    """Return the JSON body of an inference request for one held-out `row`."""
    values = trained.split.held_out[row]
    tensor = {
        "name": trained.input_name,
        "datatype": "FP32",
        "shape": [1, len(values)],
        "data": [float(each) for each in values],
    }
    return json.dumps({"id": f"{trained.model}-{row}", "inputs": [tensor]}).encode() + b"\n"


def as_npz(trained: Trained) -> bytes:
    """Return all rows, what they are, and which the model did not learn from, as arrays."""
    split, file = trained.split, io.BytesIO()
    arrays = {
        trained.input_name: np.concatenate([split.train, split.held_out]),
        "label": np.concatenate([split.train_labels, split.held_out_labels]),
        "held_out": np.repeat([False, True], [len(split.train), len(split.held_out)]),
    }
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # It has an option of a name of its own.
    return file.getvalue()


def as_csv(trained: Trained) -> bytes:
    """Return all rows of ``wine`` as a table, with the names of the measurements."""
    from sklearn.datasets import load_wine

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(load_wine().feature_names)
    for rows in (trained.split.train, trained.split.held_out):
        writer.writerows([[str(value) for value in row] for row in rows])
    return file.getvalue().encode()


def onnx_bytes(trained: Trained) -> bytes:
    """Export the version: one float32 input, a label and its probabilities out, any number of rows."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    classes = len(np.unique(trained.split.train_labels))
    model = convert_sklearn(
        trained.pipeline,
        name=trained.model,
        initial_types=[(trained.input_name, FloatTensorType([None, trained.split.train.shape[1]]))],
        final_types=[
            ("label", Int64TensorType([None])),
            ("probabilities", FloatTensorType([None, classes])),
        ],
        options={"zipmap": False},
        target_opset=OPSET,
    )
    return bytes(model.SerializeToString())


def reference(trained: Trained) -> dict[str, Any]:
    """Return what was normal when the version was made: its inputs, its answers, its quality.

    Inputs and answers are over the whole training split, which is the population that the team
    had, also for a version that learned from a part of it.
    """
    rows, split = trained.split.train, trained.split
    classes = [int(each) for each in np.unique(split.train_labels)]
    answered = trained.predict(rows)
    return {
        "model": trained.model,
        "version": str(trained.version),
        "rows_trained": trained.rows_trained,
        "inputs": {trained.input_name: feature_statistics(rows)},
        "outputs": {
            "label": {"rows": len(rows), "counts": {str(c): int((answered == c).sum()) for c in classes}}
        },
        "held_out": {
            "rows": len(split.held_out),
            "accuracy": round(trained.accuracy(), 6),
            "accuracy_by_class": {str(c): round(trained.accuracy(only=c), 6) for c in classes},
        },
    }


def feature_statistics(rows: Rows) -> dict[str, Any]:
    """Return moments and a histogram of each feature, as lists with one entry per feature.

    `edges` are those of the inner deciles that are above the minimum, each once and each a value
    that occurs; bin i holds the values from edge i - 1 up to but not including edge i. So every
    count is above zero, also for a pixel of few values; a constant one has no edge and one bin.
    """
    columns = [np.sort(column) for column in rows.astype(np.float64).T]
    edges = [_edges(column) for column in columns]
    counts = [
        np.diff([0, *np.searchsorted(column, inner), len(column)])
        for column, inner in zip(columns, edges, strict=True)
    ]
    return {
        "rows": len(rows),
        "mean": [round(float(column.mean()), 6) for column in columns],
        "std": [round(float(column.std()), 6) for column in columns],
        "min": [float(column[0]) for column in columns],
        "max": [float(column[-1]) for column in columns],
        "edges": [[float(edge) for edge in inner] for inner in edges],
        "counts": [[int(count) for count in each] for each in counts],
    }


def _edges(column: NDArray[np.float64]) -> NDArray[np.float64]:
    deciles = np.quantile(column, np.arange(1, 10) / 10, method="inverted_cdf")
    edges: NDArray[np.float64] = np.unique(deciles[deciles > column[0]])
    return edges


def _split(load: Callable[..., Any]) -> Split:
    from sklearn.model_selection import train_test_split

    rows, labels = load(return_X_y=True)
    train, held_out, train_labels, held_out_labels = train_test_split(
        rows.astype(np.float32),
        labels.astype(np.int64),
        test_size=1 / 3,
        random_state=0,
        stratify=labels,
    )
    return Split(train, train_labels, held_out, held_out_labels)


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    return make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500))


def _network() -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    network = MLPClassifier(
        (64,), alpha=0.01, learning_rate_init=0.01, tol=1e-3, n_iter_no_change=5, random_state=0
    )
    return make_pipeline(MinMaxScaler(), network)


def _lay_out(folder: Path, trained: Trained) -> None:
    path, content = folder / str(trained.version) / "model.onnx", onnx_bytes(trained)
    if _keep(path, content) != content:
        raise DemoError(
            f"{path} is there with other content, and a version never changes under its name; "
            "remove the folder or choose another with --into"
        )
    # Beside the version folders, not inside: what is in there is the version, digest and all.
    document = json.dumps(reference(trained), indent=1) + "\n"
    _write(folder / "reference" / f"{trained.version}.json", document.encode())


def _keep(path: Path, content: bytes) -> bytes:
    """Write `content` unless there is a file already; return what is there now."""
    if not path.exists():
        _write(path, content)
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
