"""Explanations: a run's prediction for any photo, its attention, and the AUs expected there.

Needs a run's folder and the package alone: no store, and no weights file that training began from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack, overload

import numpy as np
import torch

from auheat.data.dataset import fit_square
from auheat.errors import AuheatError, RequestError, StoreError
from auheat.evaluation.metrics import centre_vectors
from auheat.evaluation.model_maps import bring_to_grid, predict_maps
from auheat.evaluation.scorer import BatchScores, MapScorer
from auheat.explanation.contrast import ClassComparer, Contrast
from auheat.explanation.geometry import NO_POINTS, describe_geometry
from auheat.explanation.inputs import (
    gather_photos,
    match_detector,
    name_outputs,
    name_reason,
    remove_earlier,
)
from auheat.explanation.results import (
    ExplainSummary,
    Explanation,
    cannot_write_panel,
    describe_unexplained,
)
from auheat.explanation.scores import summarize_aus, summarize_maps
from auheat.expressions import SYNONYMS
from auheat.heatmaps.class_maps import ClassMapRenderer, FaceMaps
from auheat.heatmaps.plan import plan_heatmaps
from auheat.images.decoding import decode, make_portable, read_bytes
from auheat.images.headers import UnreadableImageError
from auheat.models.registry import find_method
from auheat.pipeline.framing import move_points, warp
from auheat.pipeline.landmark_sources import DetectorSource
from auheat.pipeline.reframing import PhotoFraming, apply_framing, frame_photo
from auheat.records import Array, Landmarks, Sample, Status
from auheat.runs import checkpoint, codebook, run_folder
from auheat.utils.console import progress
from auheat.utils.devices import pick_device
from auheat.utils.files import write_json
from auheat.utils.locking import lock_folder
from auheat.utils.paths import find_store

_LOG = logging.getLogger(__name__)

FOLDER = "explain"
"""Folder in a run's own for what the command writes, unless another is named."""


BATCH = 8
"""Photos that go through detector and network at once."""


PICTURE = 460
"""Longer side of the pictures that are kept for showing, in px."""


MEANING = {
    Status.MANY_FACES: "several faces: the largest central one is explained",
    Status.LOW_CONFIDENCE: "the landmarks are doubtful, and with them all regions shown",
    Status.NO_FACE: "no face was found (the whole photo was classified, its maps are all there is)",
    Status.UNREADABLE: "no photo that can be read",
}

LEARNT_MEASURED = (
    "the run learnt from measured AUs; those shown here are the codebook's, not what moves in the "
    "photo"
)

NO_CLASS_MAP = "{} has one map for all classes: there is no class map to show"

NO_HEATMAP = "the codebook expects no action units of {}"


class _Framed(NamedTuple):
    """A photo made ready for the network; what is no `view` are fields of `ExplanationData`.

    `face` are the points in px of the framed photo, NaN where they are doubtful.
    """

    view: PhotoFraming
    face: Array
    points: Array
    image: Array
    picture: Array
    overview: Array

    def doubtful(self) -> _Framed:
        """Return the same with points that are no evidence."""
        return self._replace(face=np.full_like(self.face, np.nan))


class _Batch(NamedTuple):
    """Photos that were classified, and their maps (N, M, S, S) of M `kinds`, which were scored.

    `of_guess` and `of_label` are the scores with the predicted and with the true class, None where
    no class has a heatmap; `contrasts` compare the predicted class with another, if there is one.
    """

    guess: list[int]
    probabilities: Array
    kinds: tuple[str, ...]
    maps: Array
    faces: FaceMaps
    of_guess: BatchScores | None
    of_label: BatchScores | None
    contrasts: list[Contrast | None]
    evidence: Array | None


class Explainer:
    """A run's network, codebook and detector, loaded once to explain many photos."""

    def __init__(
        self,
        run: Path,
        device: str = "auto",
        detector: str | None = None,
        model: Path | None = None,
    ) -> None:
        """Load a run's folder, and its detector or another one; `model` is the detector's file.

        `notes` has what a person should know beforehand. Raises `AuheatError`.
        """
        self.run = run.resolve().name
        network, self.config = checkpoint.load_classifier(run)
        self._device = pick_device(device)
        network = network.to(self._device)
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._book = codebook.unpack_codebook(self.config["codebook"], run / run_folder.CONFIG)
        self.class_names = list(self.config["class_names"])
        self._side = int(self.config["settings"]["image_size"])
        renderer = ClassMapRenderer(plan_heatmaps(self._book, self.class_names), self._side)
        self._scorer = MapScorer(renderer, None, self._device)
        self._method = find_method(self.config["settings"]["method"])
        self._compare = ClassComparer(
            renderer, self._book, self.class_names, self._method.class_maps
        )
        found, self.notes = match_detector(self.config, device, detector, model)
        if self.config["data"].get("au_mode", "prior") != "prior":
            self.notes += (LEARNT_MEASURED,)
        self._finding = DetectorSource(found, None, None)

    def __call__(
        self, photos: Sequence[Path], label: str = "", against: str = ""
    ) -> Iterator[Explanation]:
        """Yield the explanation of each photo, in order; `label` is the true class of them all.

        The predicted class is compared with `against`, by default with the runner-up. Raises
        `AuheatError` for a label or another class that is none of the run's classes.
        """
        true_class = self._find_class("--label", label)
        other = self._find_class("--against", against)
        rows = [Sample(str(i), photo) for i, photo in enumerate(photos)]
        batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        with closing(self._finding(Path(), batches, progress(shown=False))) as located:
            for batch, done in zip(batches, located, strict=True):
                paths = [row.path for row in batch]
                yield from self._explain(paths, done.found, done.sizes, true_class, other)

    def _find_class(self, option: str, asked: str) -> str:
        own = {name.casefold(): name for name in self.class_names}
        name = own.get(asked.casefold()) or SYNONYMS.get(asked.casefold(), asked)
        if asked and name not in self.class_names:
            classes = ", ".join(self.class_names)
            raise RequestError(f"{option}: {asked!r} is no class of {self.run} (one of {classes})")
        return name

    def _explain(
        self, photos: Sequence[Path], marks: Landmarks, sizes: Array, label: str, against: str
    ) -> list[Explanation]:
        """Explain a batch of photos whose landmarks were found."""
        status = [Status(int(s)) for s in marks.status]
        ready: dict[int, _Framed] = {}
        for i, photo in enumerate(photos):
            if status[i] != Status.UNREADABLE:
                framed = self._frame(photo, marks.points[i], (int(sizes[i][0]), int(sizes[i][1])))
                if framed is None:
                    status[i] = Status.UNREADABLE
                else:
                    ready[i] = framed if status[i] < Status.LOW_CONFIDENCE else framed.doubtful()
        batch = self._score([*ready.values()], label, against) if ready else None
        rows = {i: row for row, i in enumerate(ready)}
        out = []
        for i, photo in enumerate(photos):
            notes = (MEANING[status[i]],) if status[i] in MEANING else ()
            if status[i] == Status.UNREADABLE:
                notes = (f"{MEANING[status[i]]}: {name_reason(photo)}",)
            one = Explanation(photo, self.run, status[i], notes, label=label)
            if batch is not None and i in ready:
                size = int(sizes[i][0]), int(sizes[i][1])
                points = marks.points[i][: None if status[i] != Status.NO_FACE else 0]
                one = replace(one, landmarks=points, score=float(marks.score[i]), size=size)
                one = self._describe(one, ready[i], batch, rows[i])
            out.append(one)
        return out

    def _frame(self, photo: Path, points: Array, size: tuple[int, int]) -> _Framed | None:
        """Frame a photo as in training; None where it has changed or gone since its detection."""
        try:
            data = read_bytes(photo)
            pixels = decode(make_portable(data))
            if pixels.shape[:2] != size:
                return None
            view = frame_photo(self.config.get("framing"), points, size, self._book.frame)
            framed = apply_framing(pixels, view, data)
        except UnreadableImageError:
            return None
        at = move_points(points[None].astype(np.float64), view.transform[None])[0]
        scale = np.array([self._side / view.size[1], self._side / view.size[0]])
        return _Framed(
            view,
            at.astype(np.float32),
            ((at + 0.5) * scale - 0.5).astype(np.float32),
            fit_square(framed, self._side),
            _fit(pixels, view.transform, view.size),
            _fit(pixels, np.eye(2, 3), size),
        )

    def _score(self, ready: Sequence[_Framed], label: str, against: str) -> _Batch:
        """Classify photos, score the maps of the predicted classes, and compare two classes."""
        images = torch.from_numpy(np.stack([one.image for one in ready])).permute(0, 3, 1, 2)
        images = (images.to(self._device).float() / 255).contiguous(
            memory_format=torch.channels_last
        )
        points = torch.from_numpy(np.stack([one.points for one in ready])).to(self._device)
        stored = torch.from_numpy(np.stack([one.face for one in ready])).to(self._device)
        scorer, renderer = self._scorer, self._scorer.renderer
        with torch.inference_mode():
            maps = predict_maps(self._network, images, stored)
            guess = maps.logits.argmax(1)
            rows = torch.arange(len(guess), device=guess.device)
            shown = {"attention": maps.attention[-1]}
            if self._method.class_maps:
                shown["cam"] = maps.cams[rows, guess]
            numbers = (maps.logits, maps.cams, *shown.values())
            if not torch.stack([v.isfinite().all() for v in numbers]).all():
                raise StoreError(
                    f"{self.run}: its weights give no numbers (expected finite ones; train it anew)"
                )
            seen, faces = bring_to_grid(shown, rows, renderer.size), renderer.draw(points)
            heatmaps = centre_vectors(faces.heatmaps)
            classes = [guess.cpu()]
            if label:
                classes.append(torch.full_like(classes[0], self.class_names.index(label)))
            scores = [
                scorer.score(seen, faces, heatmaps, scorer.own_of(one)) if renderer.drawn else None
                for one in classes
            ]
            scores = [one and BatchScores(*(v.cpu() for v in one)) for one in scores]
            faces = faces._replace(heatmaps=faces.heatmaps.cpu(), logs=faces.logs.cpu())
            return _Batch(
                guess.tolist(),
                maps.logits.double().softmax(1).cpu().numpy(),
                tuple(shown),
                seen.plain.cpu().numpy(),
                faces,
                scores[0],
                scores[-1],
                self._compare(maps, faces, points, against),
                None if maps.evidence is None else maps.evidence.double().cpu().numpy(),
            )

    def _describe(self, one: Explanation, framed: _Framed, batch: _Batch, row: int) -> Explanation:
        """Add the results of a photo of a batch."""
        k, renderer, view = batch.guess[row], self._scorer.renderer, framed.view
        has_face = one.status != Status.NO_FACE
        name, drawn = self.class_names[k], [self.class_names[i] for i in renderer.drawn]
        of_guess, of_label = (batch.of_guess, batch.of_label) if has_face else (None, None)
        scores = summarize_maps(of_guess, row, batch.kinds, drawn, name)
        if one.label not in ("", name):
            true = summarize_maps(of_label, row, batch.kinds, drawn, one.label)
            scores |= {f"{kind}, true class": value for kind, value in true.items()}
        places = renderer.units_of(k) if has_face else {}
        units, regions = summarize_aus(
            of_guess, row, batch.kinds, batch.faces, places, self._book, name
        )
        heatmap = np.zeros(renderer.size, np.float32)
        if name in drawn:
            heatmap = batch.faces.heatmaps[row, drawn.index(name)].cpu().numpy()
        notes = [view.note] if view.note else []
        notes += [] if self._method.class_maps else [NO_CLASS_MAP.format(self._method.title)]
        notes += [] if name in drawn else [NO_HEATMAP.format(name)]
        geometry = None
        if batch.evidence is not None:
            notes += [NO_POINTS] if one.status > Status.MANY_FACES else []
            geometry = describe_geometry(
                batch.evidence[row], k, self.class_names, [unit.au for unit in units], self._book
            )
        shares = {self.class_names[i]: float(p) for i, p in enumerate(batch.probabilities[row])}
        maps = dict(zip(batch.kinds, batch.maps[row], strict=True))
        return replace(
            one,
            notes=(*one.notes, *notes),
            method=self._method.title,
            codebook=self._book.title,
            expression=name,
            probabilities=dict(sorted(shares.items(), key=lambda item: -item[1])),
            scores=scores,
            units=units,
            geometry=geometry,
            frame=view.size,
            transform=view.transform,
            points=framed.points if has_face else one.points,
            image=framed.image,
            picture=framed.picture,
            overview=framed.overview,
            attention=maps["attention"],
            cam=maps.get("cam", one.cam),
            heatmap=heatmap,
            regions=regions,
            contrast=batch.contrasts[row],
        )


def _fit(pixels: Array, transform: Array, size: tuple[int, int]) -> Array:
    """Return the view of `size` (H, W) that `transform` (2, 3) gives, its longer side PICTURE."""
    grow = PICTURE / max(size)
    small = (max(1, round(size[0] * grow)), max(1, round(size[1] * grow)))
    scale = np.array([small[1] / size[1], small[0] / size[0]])
    finer = transform * scale[:, None]
    finer[:, 2] += 0.5 * scale - 0.5
    return warp(pixels, finer, small).copy()


class _Settings(TypedDict, total=False):
    store: str | Path | None
    label: str
    against: str
    device: str
    detector: str | None
    detector_model: str | Path | None


@overload
def explain(run: str | Path, images: str | Path, **settings: Unpack[_Settings]) -> Explanation:
    """Explain one photo."""


@overload
def explain(
    run: str | Path, images: list[Any] | tuple[Any, ...], **settings: Unpack[_Settings]
) -> list[Explanation]:
    """Explain photos and those in folders."""


def explain(
    run: str | Path,
    images: str | Path | list[Any] | tuple[Any, ...],
    *,
    store: str | Path | None = None,
    label: str = "",
    against: str = "",
    device: str = "auto",
    detector: str | None = None,
    detector_model: str | Path | None = None,
) -> Explanation | list[Explanation]:
    """Explain a run's predictions for a photo, or for a list of photos and folders.

    The face is framed as the photos of training were. Nothing is written. A detector that differs
    from the run's, and what in a folder is left out, is logged as a warning.

    Args:
        run: Folder of a run, wherever it was copied to, or a name in `store`/runs.
        images: One photo, or a list of photos and folders.
        store: Folder that holds the run; None: $AUHEAT_STORE, else auheat-data.
        label: True expression of all photos, such as "happy"; "": not known.
        against: Class that the predicted one is compared with, such as "fear": why the one and not
            the other; "": the runner-up.
        device: "auto", "cpu", "cuda", "cuda:N".
        detector: "mesh", "fan", "mediapipe"; None: the one that the run was trained with.
        detector_model: File of the detector's weights (fan, mediapipe).

    Returns:
        An explanation, which a notebook shows as its panel; of a list, a list of them. Where no
        face was found, as `status` says, it has the whole photo's maps alone.

    Raises:
        AuheatError: For a run or photos that are not there, a label or another class that is none
            of the run's classes, and one photo that cannot be read.

    Example:
        >>> import auheat
        >>> found = auheat.explain("with-aus", "photo.jpg", store="store")  # doctest: +SKIP
        >>> found.expression, found.save("panel.png")  # doctest: +SKIP
        ('Happiness', PosixPath('panel.png'))
    """
    one = isinstance(images, str | Path)
    if one and Path(images).is_dir():  # type: ignore[arg-type]
        raise RequestError(f"{images}: a folder (expected a photo, or a list: [{str(images)!r}])")
    photos = gather_photos([images] if one else images)  # type: ignore[list-item,arg-type]
    explainer = _open(run_folder.find_run(find_store(store), run), device, detector, detector_model)
    found = list(explainer(photos, label, against))
    for faceless in (row for row in found if row.status == Status.NO_FACE):
        _LOG.warning("%s", describe_unexplained(faceless))
    if not one:
        return found
    if not found[0].explained:
        raise AuheatError(describe_unexplained(found[0]))
    return found[0]


def _open(
    run: Path, device: str, detector: str | None, detector_model: str | Path | None
) -> Explainer:
    """Load a run from its folder, and log what should be known of it."""
    model = None if detector_model is None else Path(detector_model)
    explainer = Explainer(run, device, detector, model)
    for note in explainer.notes:  # such as another detector than the run's
        _LOG.warning("%s", note)
    return explainer


def explain_to(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    store: str | Path | None = None,
    label: str = "",
    against: str = "",
    out: str | Path | None = None,
    device: str = "auto",
    detector: str | None = None,
    detector_model: str | Path | None = None,
) -> ExplainSummary:
    """Explain photos and write a picture NAME.png and its numbers NAME.json of each to a folder.

    A photo that could not be read has neither file. That is logged, and where no face was found.

    Args:
        run: Folder of a run, wherever it was copied to, or a name in `store`/runs.
        images: Photos, and folders of them.
        store: Folder that holds the run; None: $AUHEAT_STORE, else auheat-data.
        label: True expression of all photos, such as "happy"; "": not known.
        against: Class that the predicted one is compared with, such as "fear": why the one and not
            the other; "": the runner-up.
        out: Folder to write to; None: explain/ in the run's.
        device: "auto", "cpu", "cuda", "cuda:N".
        detector: "mesh", "fan", "mediapipe"; None: the run's.
        detector_model: File of the detector's weights (fan, mediapipe).

    Returns:
        The folder, and each photo's explanation with its panel's file.

    Raises:
        AuheatError: For a run or photos that are not there, a label or another class that is none
            of the run's classes, and a folder that cannot be written.

    Example:
        >>> from auheat.explanation import explain_to
        >>> explain_to("with-aus", ["photos"], store="store").explained  # doctest: +SKIP
        12
    """
    photos = gather_photos(images)
    place = run_folder.find_run(find_store(store), run)
    folder = place / FOLDER if out is None else Path(out)
    rows = []
    lock = run_folder.lock_run(place) if out is None else lock_folder(folder, "another --out")
    with lock:
        explainer = _open(place, device, detector, detector_model)
        for found, panel in write_panels(explainer, photos, folder, label, against):
            if panel is None or found.status == Status.NO_FACE:
                _LOG.warning("%s", describe_unexplained(found))
            rows.append((found, panel))
    summary = ExplainSummary(folder, tuple(rows))
    if summary.asked_of_itself:
        _LOG.warning(
            "--against: %d of %d photos are given that very class (compared with the runner-up)",
            summary.asked_of_itself,
            len(rows),
        )
    return summary


def write_panels(
    explainer: Explainer, photos: Sequence[Path], out: Path, label: str = "", against: str = ""
) -> Iterator[tuple[Explanation, Path | None]]:
    """Explain photos and write NAME.png and NAME.json of each to a folder; yield it and the PNG.

    The JSON has `ExplanationData.as_dict` with the photo's full path, and `panel`, the PNG's name.
    No file is replaced but those of an earlier call for the same photo (`name_outputs`). A photo
    that could not be explained has neither file, those of an earlier call are removed: None is
    yielded for it. Raises `AuheatError` where the folder cannot be written.
    """
    names = name_outputs(photos, out)
    for explanation, name in zip(explainer(photos, label, against), names, strict=True):
        panel = out / f"{name}.png" if explanation.explained else None
        try:
            if panel is None:
                remove_earlier(out, name, explanation.photo)
            else:
                out.mkdir(parents=True, exist_ok=True)
                plain = explanation.as_dict() | {
                    "photo": str(explanation.photo.resolve()),
                    "panel": panel.name,
                }
                write_json(out / f"{name}.json", plain)  # first: no panel without its JSON
                explanation.save(panel)
        except AuheatError:
            raise
        except OSError as error:
            raise cannot_write_panel(out, error) from error
        yield explanation, panel
