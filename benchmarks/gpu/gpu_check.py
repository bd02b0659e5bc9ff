"""Check and time every CUDA path: python gpu_check.py GROUP (see gpu_check.sh).

One JSON line per figure; a part that fails prints a line with "error" and the next goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch

DRY = bool(os.environ.get("GPU_CHECK_DRY"))
DEVICE = torch.device("cpu" if DRY else "cuda")
WORK = Path(os.environ.get("GPU_CHECK_WORK") or tempfile.mkdtemp())
STARTED, LEFT = time.perf_counter(), float(os.environ.get("GPU_CHECK_LEFT", "600"))
CEILINGS = WORK / "ceilings.json"
TRAIN_GFLOP, EVAL_GFLOP = 114.3, 38.2  # of resnet50 at 224 px with maps of 28 x 28, per photo
BYTES = {"detector": 23.9e6, "mesh": 39.3e6}  # activations of a face in float32, read and written
NAMES = ("Neutral", "Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger")
group_name = "?"


def report(part: str, **figures) -> None:
    clean = {k: (float(f"{v:.5g}") if isinstance(v, float) else v) for k, v in figures.items()}
    print(json.dumps({"group": group_name, "part": part, **clean}), flush=True)


def enough(name: str, needs: float) -> bool:
    """Whether there are as many seconds left; reports what is left out."""
    there = DRY or LEFT - (time.perf_counter() - STARTED) >= needs
    if not there:
        report(name, skipped="no time left")
    return there


@contextlib.contextmanager
def part(name: str):
    """Run a part; whatever it raises becomes a line."""
    began = time.perf_counter()
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        at = f"{Path(where.filename).name}:{where.lineno}"
        report(name, error=f"{type(error).__name__}: {text}", at=at)
    finally:
        if DEVICE.type == "cuda":
            with contextlib.suppress(Exception):
                torch.cuda.empty_cache()
    print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)


def sync() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(work, rounds: int = 7, warm: int = 2, most: float = 4.0) -> float:
    """The median seconds of a piece of work, the device's included."""
    for _ in range(0 if DRY else warm):
        work()
    sync()
    taken: list[float] = []
    while len(taken) < (1 if DRY else rounds) and sum(taken) < most:
        start = time.perf_counter()
        work()
        sync()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def ceilings() -> dict:
    return json.loads(CEILINGS.read_text()) if CEILINGS.is_file() else {}


def peak_gb() -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0.0


def reset_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def faces(count: int, low: int = 90, high: int = 350, seed: int = 0) -> list[np.ndarray]:
    """The portrait turned, scaled and cut, in photos of mixed sizes."""
    from skimage.data import astronaut

    photo, rng, out = astronaut(), np.random.default_rng(seed), []
    for _ in range(count):
        side = int(rng.integers(low, high + 1))
        scale = side / rng.uniform(120, 260)
        turn = cv2.getRotationMatrix2D((226.0, 118.0), float(rng.uniform(-25, 25)), scale)
        turn[:, 2] += side / 2 - np.array([226.0, 118.0]) + rng.uniform(-0.06, 0.06, 2) * side
        out.append(cv2.warpAffine(photo, turn, (side, side), borderMode=cv2.BORDER_REFLECT))
    return out


def textures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    small = [rng.integers(0, 256, (12, 16, 3)).astype(np.uint8) for _ in range(count)]
    return [cv2.resize(one, (160, 120), interpolation=cv2.INTER_CUBIC) for one in small]


# -- groups -----------------------------------------------------------------------------------


def device() -> None:
    with part("device"):
        about = {
            "torch": torch.__version__, "python": sys.version.split()[0], "numpy": np.__version__,
            "cv2": cv2.__version__, "cores": len(os.sched_getaffinity(0)),
            "openvino": importlib.util.find_spec("openvino") is not None,
            "face_alignment": importlib.util.find_spec("face_alignment") is not None,
            "h5py": __import__("h5py").__version__,
        }  # fmt: skip
        if DEVICE.type == "cuda":
            kind = torch.cuda.get_device_properties(0)
            about |= {
                "card": kind.name, "gb": kind.total_memory / 1e9,
                "count": torch.cuda.device_count(),
                "sm": f"{kind.major}.{kind.minor}", "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "cudnn_tf32": torch.backends.cudnn.allow_tf32,
                "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            }  # fmt: skip
        report("device", **about)
    found = {}
    with part("ceilings"):
        n = 2**20 if DRY else 2**28
        a, b = torch.rand(n, device=DEVICE), torch.empty(n, device=DEVICE)
        found["copy_gb_s"] = 2 * a.nbytes / seconds(lambda a=a, b=b: b.copy_(a), 15) / 1e9
        del a, b
        side = 256 if DRY else 8192
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        for name, dtype in kinds.items():
            x = torch.randn(side, side, device=DEVICE, dtype=dtype)
            y = torch.randn(side, side, device=DEVICE, dtype=dtype)
            found[f"{name}_tflop_s"] = 2 * side**3 / seconds(lambda x=x, y=y: x @ y, 7) / 1e12
        if DEVICE.type == "cuda":
            host = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
            there = torch.empty(2**28, dtype=torch.uint8, device=DEVICE)
            copy = seconds(lambda: there.copy_(host, non_blocking=True), 5)
            found["h2d_pinned_gb_s"] = host.nbytes / copy / 1e9
            tiny, one = torch.zeros(8, device=DEVICE), torch.ones(8, device=DEVICE)

            def launch():
                for _ in range(1000):
                    torch.add(tiny, one, out=tiny)

            found["launch_us"] = 1e3 * seconds(launch, 5)
            small = torch.zeros(16)

            def blocking():
                for _ in range(200):
                    small.to(DEVICE)

            found["blocking_copy_us"] = 5e3 * seconds(blocking, 5)
        report("ceilings", **found)
    CEILINGS.write_text(json.dumps(found))


def landmarks() -> None:
    from auheat.landmarks.mesh.crops import sample_crops
    from auheat.landmarks.mesh.detector import MeshDetector
    from auheat.landmarks.mesh.networks import CROP, SIDE
    from auheat.landmarks.mesh.roi import roi_from_image, roi_matrix
    from auheat.utils.cuda import exact_float32

    name = DEVICE.type
    images = faces(4 if DRY else 64) + textures(1 if DRY else 8)
    images.append(np.zeros((1, 1, 3), np.uint8))
    with part("landmark parity"):
        reference = MeshDetector("cpu", "fitted", "float32")(images)
        eye = np.linalg.norm(reference.points[:, 36] - reference.points[:, 45], axis=1)
        kinds = {"float32": exact_float32, "float16": exact_float32}
        if not DRY:  # what torch would do by itself
            kinds["tf32"] = contextlib.nullcontext
        for kind, precision in kinds.items():
            detector = MeshDetector(name, "fitted", "float32" if kind == "tf32" else kind)
            with patch("auheat.landmarks.mesh.detector.exact_float32", precision):
                for _ in range(1 if DRY else 3):  # kernel by kernel, then in CUDA graphs
                    found = detector(images)
                alone = np.concatenate([detector([one]).points for one in images[:4]])
            apart = np.linalg.norm(found.points - reference.points, axis=2)
            report(
                "landmark parity", engine=kind,
                max_px=float(np.nanmax(apart)), mean_px=float(np.nanmean(apart)),
                max_eye_percent=float(np.nanmax(100 * apart / eye[:, None])),
                same_status=bool((found.status == reference.status).all()),
                found=int((found.status < 3).sum()),
                alone_px=float(np.nanmax(np.abs(alone - found.points[:4]))),
                within=bool(np.nanmax(apart) <= {"float32": 0.02, "float16": 0.1}.get(kind, 9)),
            )  # fmt: skip
            if DEVICE.type == "cuda" and kind != "tf32":
                count_waits(f"a batch of the mesh, {kind}", lambda d=detector: d(images))
    band = ceilings().get("copy_gb_s", 1.0) * 1e9
    sizes = (2,) if DRY else (1, 32, 128, 256, 512, 1024)
    pool = faces(max(sizes), 180, 220)
    for engine in ("float32", "float16"):
        with part(f"networks {engine}"):
            detector = MeshDetector(name, "fitted", engine)
            networks = detector._networks
            detector.find_mesh(pool[: min(sizes)])
            for n in sizes:
                detector.batch_size = n
                some = pool[:n]
                reset_peak()
                whole = seconds(lambda s=some, d=detector: d.find_mesh(s), 7, most=1.5)
                with torch.inference_mode():
                    photos = networks.load(some)
                    at = torch.arange(n, device=DEVICE)
                    matrix = roi_matrix(roi_from_image(photos.size), CROP)
                    cut = seconds(
                        lambda p=photos, a=at, m=matrix: sample_crops(
                            p, a, m, CROP, replicate=True
                        ),
                        5, most=1.0,
                    )  # fmt: skip
                report(
                    "landmarks in memory", engine=engine, batch=n, faces_per_s=n / whole,
                    ms=1e3 * whole, sample_192_per_s=n / cut, peak_gb=peak_gb(),
                )  # fmt: skip
    n = 1 if DRY else 256
    kinds = {"detector": SIDE, "mesh": CROP}
    for engine in ("float32", "float16"):
        for layout in (torch.channels_last, torch.contiguous_format):
            with part(f"graphs {engine} {layout}"), torch.inference_mode(), exact_float32():
                networks = MeshDetector(name, "fitted", engine)._networks
                for kind, side in kinds.items():
                    if kind == "detector" and engine == "float16":
                        continue
                    graph = networks._detector if kind == "detector" else networks._attention
                    graph = graph.to(memory_format=layout)
                    dtype = torch.float32 if kind == "detector" else networks._dtype
                    crops = torch.rand(n, 3, side, side, device=DEVICE).to(dtype)
                    crops = crops.contiguous(memory_format=layout)
                    taken = seconds(lambda g=graph, c=crops: g(c), 9, most=1.5)
                    report(
                        "graph alone", network=kind, engine=engine, batch=n,
                        layout=str(layout).removeprefix("torch."), faces_per_s=n / taken,
                        share_of_float32_bandwidth=n / taken * BYTES[kind] / band,
                    )  # fmt: skip
    if DEVICE.type == "cuda":
        for n in (8, 32, 256):
            with part(f"cuda graphs, {n}"):
                rates, off = {}, []
                for kind in ("graphs", "kernels"):
                    detector = MeshDetector(name, "fitted", "float32")
                    if kind == "kernels":
                        detector._networks.release()
                    reset_peak()
                    work = partial(detector.find_mesh, pool[:n])
                    rates[kind] = n / seconds(work, 7, warm=3, most=1.5)
                    off.append(work()[0])
                    rates[f"{kind}_peak_gb"] = peak_gb()
                    if kind == "graphs":
                        rates["sizes"] = [sorted(f._graphs) for f in detector._networks._graphed]
                report("cuda graphs", batch=n, **rates, off=float(np.nanmax(abs(off[0] - off[1]))))
    with part("lanes"):
        detector = MeshDetector(name, "fitted", "float32")
        some, rounds = pool[: 2 if DRY else 256], 2 if DRY else 12
        for lanes in (1, 2) if DRY else (1, 2, 3, 4):
            with ThreadPoolExecutor(lanes) as threads:

                def work(threads=threads):
                    list(threads.map(detector, [some] * rounds))

                report(
                    "lanes", lanes=lanes, faces_per_s=rounds * len(some) / seconds(work, 2, 1, 3)
                )
    with part("renderer"):
        _renderer()
    if importlib.util.find_spec("face_alignment") is None:
        report("fan", skipped="face_alignment is not installed")
        return
    if not enough("fan", 20):
        return
    with part("fan"):
        import bench_fan

        from auheat.landmarks import fan

        sys.argv = ["bench_fan", "1" if DRY else "128"]
        bench_fan.STACKS = 1 if DRY else bench_fan.STACKS
        bench_fan.main()
        if not DRY:
            network = importlib.import_module("face_alignment.models").FAN(4).eval()
            placed = fan.place_network(network.requires_grad_(False), DEVICE, True)
            photos, boxes = bench_fan.make_faces(256)
            for chunk in (16, 32, 64, 128):
                fan.CHUNK = chunk

                def locate():
                    at = torch.arange(len(photos), device=DEVICE)
                    fan.locate(placed, fan.pack(photos, DEVICE), at, boxes)

                reset_peak()
                count_waits(f"fan, 256 faces in chunks of {chunk}", locate)
                report("fan, float16", chunk=chunk, faces_per_s=256 / seconds(locate, 2, 1, 3),
                     peak_gb=peak_gb())  # fmt: skip


def _renderer() -> None:
    from auheat.facs import load_codebook
    from auheat.heatmaps import plan_heatmaps, render_bytes, render_heatmaps
    from auheat.heatmaps.class_maps import ClassMapRenderer

    book = load_codebook("martinez")
    plan, rng = plan_heatmaps(book, NAMES), np.random.default_rng(0)
    for n, side in ((64, 56), (16, 224)) if DRY else ((8192, 56), (2048, 224)):
        noise = rng.normal(0, 0.01, (n, 68, 2))
        points = 100 * (book.frame.mean + noise) + np.array([112.0, 95.0])
        labels = np.arange(n) % 7
        near = torch.tensor(points, dtype=torch.float32, device=DEVICE)
        which = torch.tensor(labels, device=DEVICE)
        size, photo = (side, side), (224, 224)
        drawn, _ = render_heatmaps(near[:64], which[:64], plan, photo, size)
        exact, _ = render_heatmaps(points[:64], labels[:64], plan, photo, size)
        taken = seconds(partial(render_heatmaps, near, which, plan, photo, size), 7)
        on_cpu = seconds(partial(render_bytes, points[:512], labels[:512], plan, photo, size))
        report(
            "renderer", side=side, maps=n, maps_per_s=n / taken,
            numpy_bytes_maps_per_s=min(n, 512) / on_cpu,
            off_by=float(np.abs(drawn.cpu().numpy() - exact).max()),
        )  # fmt: skip
        if DEVICE.type == "cuda":
            draw = partial(render_heatmaps, near, which, plan, photo, size)
            count_waits(f"heatmaps of {side} px", draw)
        classes = ClassMapRenderer(plan, side)
        some, drawn = near[:32], []
        every = classes.draw(some, within=photo).heatmaps.unbind(1)
        for k, shown in zip(classes.drawn, every, strict=True):
            alike = np.full(len(some), k)
            exact, _ = render_heatmaps(points[:32], alike, plan, photo, size)
            drawn.append(np.abs(shown.cpu().numpy() - exact).max())
        taken = seconds(partial(classes.draw, some, within=photo))
        report(
            "class maps", side=side, faces=len(some), faces_per_s=len(some) / taken,
            off_by=float(max(drawn)),
        )  # fmt: skip


def _bench():
    import bench_train as bench

    from auheat.heatmaps import plan_heatmaps

    bench.NAMES, bench.CLASSES = NAMES, len(NAMES)
    bench.PLAN = plan_heatmaps(bench.BOOK, NAMES)
    return bench


def training() -> None:
    from auheat.training.config import make_config

    bench = _bench()
    bf16 = ceilings().get("bf16_tflop_s", 1.0)
    backbone, side = ("thin", 64) if DRY else ("resnet50", 224)
    for batch, amp in ((4, "none"),) if DRY else ((32, "bf16"), (32, "none"), (128, "bf16")):
        with part(f"step {batch} {amp}"):
            config = make_config(
                "demo", backbone=backbone, image_size=side, batch_size=batch, amp=amp, epochs=1000,
                optimizer="sgd", lr=0.001, device=DEVICE.type,
            )  # fmt: skip
            reset_peak()
            bare = bench.make_bare(config, DEVICE)
            terms = {
                "plain": bench.PLAIN, "aligned": bench.ALIGNED, "contrast": bench.TOLD_APART,
                "class_maps": bench.EACH_CLASS,
            }  # fmt: skip
            for weights in terms.values():
                bare(weights)
                bare(weights)
            taken: dict[str, list[float]] = {key: [] for key in terms}
            for _ in range(1 if DRY else 10):
                for key, weights in terms.items():
                    taken[key].append(bench.timed(DEVICE, partial(bare, weights)))
            ms = {f"{key}_ms": 1e3 * statistics.median(v) for key, v in taken.items()}
            rate = batch / statistics.median(taken["aligned"])
            report(
                "train step, bare", backbone=backbone, batch=batch, amp=amp, **ms,
                au_share=1 - ms["plain_ms"] / ms["aligned_ms"], images_per_s=rate,
                share_of_bf16_product=rate * TRAIN_GFLOP / 1e3 / bf16, peak_gb=peak_gb(),
            )  # fmt: skip
            flags = torch.backends.cudnn
            before = flags.benchmark
            flags.benchmark = True
            bare(bench.ALIGNED)
            report("train step, cudnn.benchmark", batch=batch, amp=amp,
                 ms=1e3 * seconds(partial(bare, bench.ALIGNED), 7))  # fmt: skip
            flags.benchmark = before
    for decode in (False, True):
        if not enough(f"engine decode={decode}", 12):
            break
        with part(f"engine decode={decode}"):
            config = make_config(
                "demo", backbone=backbone, image_size=side, batch_size=4 if DRY else 32,
                amp="none" if DRY else "bf16", epochs=1000, optimizer="sgd", lr=0.001,
                device=DEVICE.type, workers=0 if DRY else None,
            )  # fmt: skip
            bench.STEPS = 2 if DRY else 24
            engine = bench.make_engine(config, DEVICE, decode)
            with contextlib.redirect_stderr(io.StringIO()):
                engine._train_epoch(0)
                rates = [
                    engine.steps * config.batch_size
                    / bench.timed(DEVICE, partial(engine._train_epoch, e))
                    for e in (1, 2)
                ]  # fmt: skip
            report("engine", photos="decoded" if decode else "in memory", batch=config.batch_size,
                 images_per_s=max(rates))  # fmt: skip
            if not decode and DEVICE.type == "cuda":
                batch, chance = next(iter(engine.feed)), torch.Generator().manual_seed(0)

                def step(e=engine, b=batch, c=chance):
                    e.backward(b, e.config.batch_size, c)
                    e._step()

                count_waits("a training step", step)
            if decode:
                start = time.perf_counter()
                n = sum(len(batch["label"]) for _ in range(2) for batch in engine.feed)
                sync()
                report("loader alone", images_per_s=n / (time.perf_counter() - start))
            del engine
    for name, settings in {
        "thin 96 px": {"backbone": "thin", "image_size": 96, "batch_size": 16},
        "ts-cam 224 px": {"method": "ts-cam", "backbone": "deit-small", "image_size": 224,
                          "batch_size": 32, "amp": "bf16"},
    }.items():  # fmt: skip
        if DRY or not enough(f"engine {name}", 8):
            break
        with part(f"engine {name}"):
            config = make_config("demo", epochs=1000, device="cuda", **settings)
            engine = _make_engine(bench, config, 24)
            with contextlib.redirect_stderr(io.StringIO()):
                engine._train_epoch(0)
                taken = bench.timed(DEVICE, lambda e=engine: e._train_epoch(1))
            report("engine", network=name, images_per_s=24 * config.batch_size / taken)


def _make_engine(bench, config, steps, where=None):
    """An engine of any method on photos in memory."""
    from auheat.models.registry import build_classifier
    from auheat.training.optim import make_optimizer
    from auheat.training.trainer import Trainer
    from auheat.training.training_data import TrainingData

    where = DEVICE if where is None else where
    torch.manual_seed(0)
    model = build_classifier(config.method, config.backbone, len(NAMES)).to(where)
    model = model.to(memory_format=torch.channels_last)
    data = bench.Synthetic(config.batch_size * steps, config.resize or config.image_size, False)
    held = bench.Synthetic(config.batch_size, config.image_size, False)
    rows = np.arange(len(data))
    some = rows[: config.batch_size]
    material = TrainingData(None, data, rows, held, some, bench.PLAN, {}, bench.BOOK)
    optimizer = make_optimizer(
        model, config.optimizer, config.lr, config.weight_decay, config.head_lr_factor
    )
    return Trainer(config, material, model, optimizer, where)


def count_waits(name: str, work) -> None:
    """How often a piece of work waits for the device, by torch's own account."""
    for _ in range(3):  # what is captured in CUDA graphs is so by now
        work()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)
    )
    report("waits", of=name, count=sum(places.values()), where=dict(places))


def methods() -> None:
    from auheat.evaluation.model_maps import predict_maps, view_maps
    from auheat.evaluation.scorer import MapScorer
    from auheat.heatmaps.class_maps import ClassMapRenderer
    from auheat.models.registry import METHODS
    from auheat.training.config import make_config

    bench, steps = _bench(), 1 if DRY else 3
    cudnn = torch.backends.cudnn
    for method in METHODS:
        with part(f"method {method}"):
            lines, scores = {}, {}
            for where in dict.fromkeys((torch.device("cpu"), DEVICE)):
                cudnn.allow_tf32 = False
                config = make_config("methods", method=method, batch_size=8, device=where.type)
                engine = _make_engine(bench, config, steps, where)
                with contextlib.redirect_stderr(io.StringIO()):
                    lines[where.type] = {**engine._train_epoch(0), **engine._validate()}
                side, data = config.image_size, engine.material.held_out._cache
                batch = {
                    "label": torch.arange(8) % 6 + 1, "index": torch.arange(8),
                    "valid": torch.ones(8, dtype=torch.bool), "landmarks": data["landmarks"],
                }  # fmt: skip
                model = engine.model.eval()
                scorer = MapScorer(ClassMapRenderer(bench.PLAN, side), torch.rand(56, 56), where)
                with torch.inference_mode():
                    seen = predict_maps(model, data["image"].to(where).float() / 255)
                    scorer.update(view_maps(seen, batch["label"].to(where)), batch)
                scores[where.type] = scorer.compute().scores
                cudnn.allow_tf32 = True
            a, b = lines["cpu"], lines[DEVICE.type]
            report(
                "method", method=method, train_loss=b["train_loss"], val_loss=b["val_loss"],
                train_off=abs(a["train_loss"] - b["train_loss"]),
                val_off=abs(a["val_loss"] - b["val_loss"]),
                scores_off=float(np.nanmax(np.abs(scores["cpu"] - scores[DEVICE.type]))),
            )  # fmt: skip
    modes = {
        "bf16": {"amp": "bf16"}, "fp16": {"amp": "fp16", "clip": 1.0},
        "accumulate ema balance freeze": {"accumulate": 2, "ema": 0.9, "balance": True,
                                          "freeze_bn": True, "clip": 1.0},
        "contrast crop": {"contrast_weight": 1.0, "resize": 80, "amp": "bf16"},
        "class maps": {"class_map_weight": 1.0, "amp": "bf16"},
        "ts-cam class maps": {"method": "ts-cam", "class_map_weight": 1.0, "amp": "bf16"},
        "cutmix contrast": {"method": "cutmix", "contrast_weight": 1.0, "amp": "bf16"},
        "geometry branch": {"geometry_branch": True, "amp": "bf16"},
        "adamw bf16 layers": {"layers": (5, 4, 3), "amp": "bf16"},
    }  # fmt: skip
    for name, settings in modes.items():
        if DRY and settings.get("amp") == "fp16":
            continue
        with part(f"mode {name}"):
            config = make_config("methods", batch_size=8, device=DEVICE.type, **settings)
            engine = _make_engine(bench, config, steps)
            with contextlib.redirect_stderr(io.StringIO()):
                line = {**engine._train_epoch(0), **engine._validate()}
            file = WORK / "state"
            file.mkdir(exist_ok=True)
            best = {"epoch": 1, "val_accuracy": 0.0, "val_loss": 1.0}
            (file / "last.safetensors").write_bytes(engine.pack(epochs_done=1, best=best))
            again = _make_engine(bench, config, steps)
            again.load(file)
            with contextlib.redirect_stderr(io.StringIO()):
                one, two = engine._train_epoch(1), again._train_epoch(1)
            report("mode", mode=name, train_loss=line["train_loss"], val_loss=line["val_loss"],
                 resumed_off=abs(one["train_loss"] - two["train_loss"]))  # fmt: skip


def extract() -> None:
    from auheat.pipeline.extraction import extract as run
    from auheat.pipeline.landmark_sources import DetectorSource
    from auheat.records import Landmarks, Sample

    class Null:
        """A detector that costs nothing: what is left is the host's own time."""

        name, digest, device, engine, batch_size, lanes = "null", "0" * 64, "cpu", "none", 256, 3

        def __call__(self, images):
            n = len(images)
            return Landmarks(
                np.zeros((n, 68, 2), np.float32), np.ones(n, np.float32), np.zeros(n, np.uint8)
            )

    class Bar:
        def update(self, n=1):
            pass

    cores = len(os.sched_getaffinity(0))
    for side, n in ((100, 16),) if DRY else ((100, 8192), (350, 4096)):
        if not enough(f"extract {side} px", 12):
            break
        with part(f"extract {side} px"):
            folder = WORK / f"photos{side}" / "happy"
            folder.mkdir(parents=True)
            some = [cv2.resize(one, (side, side)) for one in faces(64, 200, 300)]
            files = [
                cv2.imencode(".jpg", one[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
                for one in some
            ]
            rows = []
            for i in range(n):
                (folder / f"{i:05d}.jpg").write_bytes(files[i % 64])
                rows.append(Sample(str(i), folder / f"{i:05d}.jpg"))
            start = time.perf_counter()
            shards = [rows[i : i + 1024] for i in range(0, n, 1024)]
            for _ in DetectorSource(Null(), None, None)(Path(), shards, Bar()):
                pass
            host = n / (time.perf_counter() - start)
            for engine in ("float32", "float16"):
                store = WORK / f"store{side}{engine}"
                with contextlib.redirect_stderr(io.StringIO()):
                    summary = run(folder.parent, store, device=DEVICE.type, engine=engine)
                report(
                    "extract", side=side, photos=n, cores=cores, engine=engine, rate=summary.rate,
                    host_alone=host, ok=summary.status["OK"],
                )  # fmt: skip
            if DEVICE.type == "cuda":
                _device_load(folder.parent, run, side)


def _device_load(source, run, side) -> None:
    """The device's load while photos are looked at, by nvidia-smi."""
    watch = subprocess.Popen(
        ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits",
         "-lms", "100"], stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            run(source, WORK / f"again{side}", device="cuda", engine="float32")
    finally:
        watch.terminate()
        printed = [line.split(",") for line in watch.communicate()[0].splitlines()]
    load = [int(a) for a, _ in printed if a.strip().isdigit()]
    report("device load while extracting", side=side, mean_percent=statistics.mean(load or [0]),
         max_percent=max(load or [0]), memory_mb=max(int(b) for _, b in printed))  # fmt: skip


def evaluate() -> None:
    import bench_evaluate as bench

    from auheat.evaluation.model_maps import predict_maps, view_maps
    from auheat.evaluation.scorer import MapScorer
    from auheat.heatmaps.class_maps import ClassMapRenderer
    from auheat.models.registry import build_classifier

    backbone, side = ("thin", 64) if DRY else ("resnet50", 224)
    for method, sizes in {
        "cam": (1, 8, 32, 128), "gradcam++": (32, 128), "prm": (32, 128)
    }.items():  # fmt: skip
        if not enough(f"evaluate {method}", 5):
            break
        with part(f"evaluate {method}"):
            model = build_classifier(method, backbone, 7).to(DEVICE).eval()
            model = model.to(memory_format=torch.channels_last)
            for n in (2,) if DRY else sizes:
                batch = bench.make_batch(n, side)
                labels = batch["label"].to(DEVICE)
                images = torch.rand(n, 3, side, side, device=DEVICE)
                images = images.to(memory_format=torch.channels_last)
                scorer = MapScorer(ClassMapRenderer(bench.PLAN, side), torch.rand(56, 56), DEVICE)
                with torch.inference_mode():

                    def whole(m=model, i=images, t=labels, j=scorer, b=batch):
                        j.update(view_maps(predict_maps(m, i), t), b)

                    reset_peak()
                    all_of_it = seconds(whole, 5, most=2)
                    forward = seconds(lambda m=model, i=images: m(i), 5, most=2)
                report("evaluate", method=method, batch=n, photos_per_s=n / all_of_it,
                     forward_per_s=n / forward, peak_gb=peak_gb())  # fmt: skip
    with part("evaluate's photos"):
        from auheat.data.dataset import fit_square
        from auheat.images.decoding import decode_stored

        for size in (100, 350):
            photo = cv2.resize(faces(1, 300, 300)[0], (size, size))
            data = cv2.imencode(".jpg", photo)[1].tobytes()
            start, n = time.perf_counter(), 20 if DRY else 500
            for _ in range(n):
                fit_square(decode_stored(data), 224)
            report(
                "decode and resize, one core", side=size, per_s=n / (time.perf_counter() - start)
            )


def chain() -> None:
    """The commands themselves, on a made set."""
    store, photos = WORK / "store", WORK / "rafdb"
    command = [sys.executable, "-m", "auheat.cli"]
    card = ["--device", DEVICE.type]
    first = ["--preset", "demo", "--epochs", "3", "--name", "a", *card, "--amp", "bf16"]
    second = ["--preset", "demo", "--epochs", "2", "--name", "b", *card]
    steps = {
        "demo": ["demo", str(photos), *(["--train", "6", "--test", "2"] if DRY else [])],
        "extract": ["extract", str(photos), *card, "--engine", "float32"],
        "render": ["render"],
        "train": ["train", *first],
        "train again": ["train", *first],
        "train layercam": ["train", *second, "--method", "layercam", "--contrast-weight", "0.3",
                           "--ema", "0.9"],
        "evaluate": ["evaluate", "a", *card, "--save-maps", str(WORK / "maps.npz")],
        "evaluate faithfulness": ["evaluate", "a", *card, "--faithfulness",
                                  "--faithfulness-photos", "4" if DRY else "60",
                                  "--faithfulness-steps", "4" if DRY else "10"],
        "evaluate maps": ["evaluate", *card, "--maps", str(WORK / "maps.npz")],
        "explain": ["explain", "a", *card, "--out", str(WORK / "explained")],
    }  # fmt: skip
    if DRY:
        steps = {k: v for k, v in steps.items() if k not in ("train layercam", "train again")}
        steps["train"] = ["train", "--preset", "methods", "--epochs", "1", "--name", "a", *card]
    for name, words in steps.items():
        if not enough(f"auheat {name}", 5):
            break
        with part(f"auheat {name}"):
            start = time.perf_counter()
            env = os.environ | {"AUHEAT_STORE": str(store)}
            if name == "explain":
                words = [
                    *words,
                    *map(
                        str,
                        sorted((photos / "Image" / "aligned").glob("test*"))[: 2 if DRY else 16],
                    ),
                ]
            words = [*words] if name in ("demo", "explain") else [*words, "--json"]
            done = subprocess.run(
                [*command, *words],
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            printed = {}
            with contextlib.suppress(ValueError):
                printed = json.loads(done.stdout)
            keys = ("rate", "val_accuracy", "accuracy", "images_per_second", "device", "status")
            printed = {k: printed[k] for k in keys if isinstance(printed, dict) and k in printed}
            last = (done.stderr.strip().splitlines() or [""])[-1][-200:] if done.returncode else ""
            about = {"code": done.returncode, "seconds": time.perf_counter() - start, **printed}
            report("auheat", command=name, **about, **({"error": last} if last else {}))


def ddp() -> None:
    """One process of NCCL: what several would call, on one card."""
    import torch.distributed as dist

    from auheat.models.registry import build_classifier
    from auheat.utils.distributed import World

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
    backend = "cpu:gloo,cuda:nccl" if DEVICE.type == "cuda" else "gloo"
    where = torch.device("cuda", 0) if DEVICE.type == "cuda" else DEVICE
    if DEVICE.type == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(backend, rank=0, world_size=1)
    world = World(0, 2, 0, 1)  # size 2, so that collectives are called at all
    with part("collectives"):
        start = time.perf_counter()
        total = world.sum(torch.ones(5, device=where))
        agreed = world.broadcast({"a": 1})
        report(
            "collectives", sum=total.tolist(), agreed=agreed, first_s=time.perf_counter() - start
        )
    backbone, side, n = ("thin", 64, 4) if DRY else ("resnet50", 224, 32)
    images = torch.rand(n, 3, side, side, device=where).to(memory_format=torch.channels_last)
    labels = torch.arange(n, device=where) % 7
    taken = {}
    for kind in ("plain", "ddp") if DRY else ("plain", "ddp", "ddp + sync_bn"):
        with part(f"step {kind}"):
            torch.manual_seed(0)
            model = build_classifier("cam", backbone, 7)
            model = (
                torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) if "sync" in kind else model
            )
            model = model.to(where).to(memory_format=torch.channels_last).train()
            run = model if kind == "plain" else world.wrap_ddp(model, where)
            optimizer = torch.optim.SGD(model.parameters(), 0.001, 0.9, nesterov=True)
            losses = []

            def step(run=run, optimizer=optimizer, losses=losses):
                with torch.autocast(where.type, torch.bfloat16):
                    output = run(images, labels)
                loss = torch.nn.functional.cross_entropy(output.logits.float(), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())

            reset_peak()
            taken[kind] = seconds(step, 6, 2, 5)
            report("ddp step", kind=kind, ms=1e3 * taken[kind], peak_gb=peak_gb(),
                 losses=[round(float(v), 4) for v in losses[:3]])  # fmt: skip
            if kind != "plain":
                world.sync_buffers(model)
    dist.destroy_process_group()


def compile() -> None:  # noqa: A001
    from auheat.training.config import make_config

    bench = _bench()
    with part("compile a step"):
        backbone, side, n = ("thin", 64, 4) if DRY else ("resnet50", 224, 32)
        config = make_config(
            "demo", backbone=backbone, image_size=side, batch_size=n, amp="none" if DRY else "bf16",
            epochs=1000, optimizer="sgd", lr=0.001, device=DEVICE.type, compile=True,
        )  # fmt: skip
        engine = _make_engine(bench, config, 2 if DRY else 24)
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            first = engine._train_epoch(0)
            began = time.perf_counter() - start
            taken = bench.timed(DEVICE, lambda: engine._train_epoch(1))
        report("engine, compiled", batch=n, images_per_s=engine.steps * n / taken,
             first_epoch_s=began, train_loss=first["train_loss"], peak_gb=peak_gb())  # fmt: skip


def memory() -> None:
    """What happens where memory is short."""
    if DRY:
        return
    from auheat.landmarks.mesh.detector import MeshDetector
    from auheat.training.config import make_config

    total = torch.cuda.get_device_properties(0).total_memory
    for gb in (4, 1):
        with part(f"landmarks in {gb} GB"):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(gb * 1e9 / total)
            with ThreadPoolExecutor(3) as lanes:
                detector = MeshDetector("cuda", "fitted", "float32")
                found = list(lanes.map(detector, [faces(256, 180, 220)] * 3))
            rows = sum(len(f.status) for f in found)
            report("landmarks, three lanes", limit_gb=gb, rows=rows, batch=detector.batch_size)
    with part("train in 8 GB"):
        torch.cuda.set_per_process_memory_fraction(8e9 / total)
        config = make_config(
            "demo", backbone="resnet50", image_size=224, batch_size=128, amp="bf16", device="cuda"
        )
        engine = _make_engine(_bench(), config, 1)
        with contextlib.redirect_stderr(io.StringIO()):
            engine._train_epoch(0)
        report("train in 8 GB", batch=128, peak_gb=peak_gb())


if __name__ == "__main__":
    group_name = sys.argv[1]
    globals()[group_name]()
