import base64
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageSequence
from sklearn.datasets import load_digits, load_sample_images

import diffzero as dz
from diffzero.images import (
    decode,
    fit_square,
    image_files,
    is_one,
    load_image,
    load_images,
    split_images,
    to_tensor,
    trim,
)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def test_file_pil_array_and_tensor_of_the_same_pixels_are_equal(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(pixels),
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
    ):
        assert np.array_equal(load_image(source), pixels)
    assert np.array_equal(load_image(pixels / 255, value_range=(0, 1)), pixels)
    signed = (pixels / 127.5 - 1).astype(np.float32)
    assert np.array_equal(load_image(signed, value_range=(-1, 1)), pixels)


def test_exif_rotation_is_applied(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows become columns
    Image.fromarray(pixels).save(tmp_path / "r.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "r.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LA", "RGBA", "HSV"])
def test_modes_become_rgb(pixels, mode):
    image = Image.fromarray(pixels).convert(mode)
    out = load_image(image)
    assert out.shape == (12, 10, 3) and out.dtype == np.uint8


def test_transparency_lies_over_white():
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    assert (load_image(clear) == 255).all()
    assert (load_image(Image.fromarray(clear)) == 255).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert load_image(tmp_path / "deep.png")[..., 0].tolist() == [[0, 100], [200, 255]]


@pytest.fixture
def film(tmp_path):
    """A path of three frames, red, green and blue."""
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    return tmp_path / "film.gif"


RED_GREEN_BLUE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def corners(images):
    return [image[0, 0].tolist() for image in images]


def test_path_of_an_animation_is_its_first_frame_and_a_pil_image_the_one_it_stands_on(film):
    assert corners([load_image(film)]) == RED_GREEN_BLUE[:1]
    with Image.open(film) as image:
        image.seek(1)
        assert corners([load_image(image)]) == RED_GREEN_BLUE[1:2]
        assert image.tell() == 1
        assert corners(load_image(frame) for frame in ImageSequence.Iterator(image)) == (
            RED_GREEN_BLUE
        )


def test_frames_of_an_iterator_are_many_images(film):
    with Image.open(film) as image:
        image.seek(2)
        assert corners(load_images(ImageSequence.Iterator(image))) == RED_GREEN_BLUE
        assert image.tell() == 2
        assert corners(load_images(f for f in ImageSequence.Iterator(image))) == RED_GREEN_BLUE
        with pytest.raises(dz.InputError, match="one animated PIL image several times"):
            split_images(list(ImageSequence.Iterator(image)))


def make_bad(kind, folder, pixels):
    path = folder / f"{kind}.png"
    if kind == "truncated":
        Image.fromarray(np.tile(pixels, (20, 20, 1))).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "damaged or truncated"),
        ("text", "not an image that can be read"),
        ("empty", "not an image that can be read: it is empty"),
        ("missing", "no such file"),
        ("folder", "this is a folder"),
    ],
)
def test_bad_files_are_named_with_what_to_do(kind, message, tmp_path, pixels):
    path = make_bad(kind, tmp_path, pixels)
    with pytest.raises(dz.InputError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_decompression_bomb(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(dz.InputError, match="more than 100 pixels, a possible decompression bomb"):
        load_image(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.full((4, 4, 3), np.nan), "NaN or infinity"),
        (np.zeros((4, 4, 3)), "does not say what black and white are"),
        (np.zeros((4, 4, 3), dtype=np.int32), "Integer images are uint8"),
        (np.full((4, 4, 3), 999, np.uint16), r"array / 257.*if 65535 is white"),
        (np.ones((4, 4), dtype=bool), r"array.astype\(np.uint8\) \* 255"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "is empty"),
        (np.zeros((4, 4, 5), dtype=np.uint8), r"shape \[height, width\]"),
        (torch.zeros(5, 4, 3), r"shape \[channels, height, width\]"),
        ("https://example.org/cat.jpg", "URLs are not fetched"),
        ("photo.heic", "no such file"),
        (42, "path, a PIL image, an array or a tensor; got int"),
        (Image.new("RGB", (0, 4)), "size 0x4"),
        (Image.new("F", (4, 4)), "carry no range"),
        (Image.new("L", (4, 4), 200).convert("I"), "whole numbers of 32 bits up to 200"),
        (Image.fromarray(np.full((4, 4), -5, np.int32)), "whole numbers from -5 to -5"),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "what black and white are"),
        (__file__.encode(), "is a file. Give its path as text"),
        (base64.b64encode(b"x" * 300), "look like one in base64"),
        (b"data:image/png;base64,AAAA", "these are a data: URL"),
        (b"", "it is empty"),
        (np.frombuffer(b"\x89PNG\r\n\x1a\n" + bytes(9), np.uint8), r"give array.tobytes\(\)"),
        (torch.zeros(784, dtype=torch.uint8), "its height and width with reshape"),
    ],
)
def test_bad_sources(source, message):
    with pytest.raises(dz.InputError, match=message):
        load_image(source)


def test_values_outside_the_declared_range_are_refused():
    with pytest.raises(dz.InputError, match="outside value_range"):
        load_image(np.full((2, 2, 3), 200.0), value_range=(0, 1))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_without_its_library_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "find_spec", lambda name: None)
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(dz.InputError, match="HEIC is not read; convert it .* .diffzero.heif.."):
        load_image(tmp_path / "a.heic")
    with pytest.raises(dz.InputError, match="AVIF is not read by this build of Pillow"):
        load_image(HEIC.replace(b"heic", b"avif"))


def test_heic_with_its_library(pixels):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    smooth = Image.fromarray(pixels).resize((200, 240), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(buffer := io.BytesIO(), "HEIF", quality=95, exif=exif.tobytes())
    out = load_image(buffer).astype(int)
    assert np.abs(out - np.rot90(np.asarray(smooth), -1)).mean() < 4
    with pytest.raises(dz.InputError, match="damaged or truncated"):
        load_image(buffer.getvalue()[:500])


def test_avif_is_read(pixels):
    smooth = Image.fromarray(pixels).resize((200, 240), Image.Resampling.BICUBIC)
    smooth.save(buffer := io.BytesIO(), "AVIF", quality=90)
    assert np.abs(load_image(buffer).astype(int) - np.asarray(smooth)).mean() < 4


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
        (b"%PDF-1.7", "a PDF file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"P6 1 1 255 abc", "a PPM or PGM file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isomavc1", "a film"),
    ],
)
def test_other_formats_are_named_and_never_opened(head, words, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("reached Pillow"))
    (tmp_path / "a.png").write_bytes(head + bytes(100))
    with pytest.raises(dz.InputError, match=f"not an image that can be read, but {words}"):
        load_image(tmp_path / "a.png")


def test_only_the_named_format_is_tried(pixels, monkeypatch):
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    tried = []
    true_open = Image.open

    def spy(file, formats=None):
        tried.append(formats)
        return true_open(file, formats=formats)

    monkeypatch.setattr(Image, "open", spy)
    load_image(buffer)
    assert tried == [("PNG",)]


@pytest.mark.parametrize(
    "error", [TypeError("x"), RuntimeError(), IndexError(), KeyError(3), MemoryError(), OSError()]
)
def test_whatever_pillow_raises_is_an_input_error(error, pixels, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(Image.Image, "crop", fail)
    with pytest.raises(dz.InputError, match="damaged"):
        load_image(Image.fromarray(pixels))


def test_our_own_errors_are_not_blamed_on_the_image(pixels, monkeypatch):
    monkeypatch.setattr(decode, "STRIP", None)
    with pytest.raises(TypeError):
        load_image(Image.fromarray(pixels))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "LA"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_and_rotations_give_what_pillow_gives_whole(mode, orientation, monkeypatch):
    from PIL import ImageOps

    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (13, 7, 4), dtype=np.uint8))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 256, (13, 7), dtype=np.uint16) * 257)
    image = image if mode == "I;16" else image.convert("RGB" if mode == "P" else mode)
    image = image.quantize(16) if mode == "P" else image
    image.getexif()[0x0112] = orientation
    whole = load_image(ImageOps.exif_transpose(image))
    monkeypatch.setattr(decode, "STRIP", 20)
    assert np.array_equal(load_image(image), whole)
    assert whole.shape == ((13, 7, 3) if orientation < 5 else (7, 13, 3))


def test_very_large_jpegs_are_decoded_small(monkeypatch, tmp_path):
    smooth = Image.fromarray(load_sample_images().images[0])
    smooth.save(tmp_path / "a.jpg", quality=95)
    half = np.asarray(smooth.resize((320, 214), Image.Resampling.BOX)).astype(int)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    for source in (tmp_path / "a.jpg", (tmp_path / "a.jpg").read_bytes()):
        out = load_image(source)
        assert out.shape == (214, 320, 3) and np.abs(out - half).mean() < 10
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert load_image(tmp_path / "a.jpg").shape == (54, 80, 3)
    monkeypatch.setattr(decode, "JPEG_PIXELS", 200_000)
    with pytest.raises(dz.InputError, match="declares more than 200,000 pixels"):
        load_image(tmp_path / "a.jpg")


def test_very_large_jpegs_not_yet_decoded_are_read_as_their_files_are(monkeypatch, tmp_path):
    Image.fromarray(load_sample_images().images[0]).save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("rb") as file, Image.open(file) as lazy:
        stood = file.tell()
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
        assert np.array_equal(load_image(lazy), load_image(tmp_path / "a.jpg"))
        assert file.tell() == stood and lazy.size == (640, 427)
        lazy.load()
        with pytest.raises(dz.InputError, match="declares more than 100,000 pixels"):
            load_image(lazy)


def test_progressive_jpegs_of_many_scans_are_refused(monkeypatch):
    Image.new("RGB", (64, 64)).save(buffer := io.BytesIO(), "JPEG", progressive=True)
    assert load_image(buffer).shape == (64, 64, 3)
    monkeypatch.setattr(decode, "JPEG_SCANS", 64 * 64 * 4)
    with pytest.raises(dz.InputError, match="in 10 scans takes too long"):
        load_image(buffer)


LARGE = """
import io, resource, sys
import numpy as np
from PIL import Image
from diffzero.images import fit_square, load_image
kind = sys.argv[1]
if kind == "slender":
    for shape in ((1, 4000, 3), (4000, 1, 3), (2, 9_000_000, 3)):
        fit_square(np.zeros(shape, np.uint8), 512)
elif kind == "floats":
    load_image(np.zeros((3000, 4000, 3), np.float32), (0, 1))
else:
    options = {"JPEG": {"subsampling": 0, "progressive": True}, "PNG": {"compress_level": 1}}
    size, mode = ((12000, 9000), "RGB") if kind == "JPEG" else ((9400, 9400), "LA")
    Image.new(mode, size).save(kind, kind, **options[kind])
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
    if sys.argv[2:]:
        fit_square(load_image(kind), 512)
lines = open("/proc/self/status").read().splitlines()  # ru_maxrss begins with the parent's
print(next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured on Linux")
@pytest.mark.parametrize(
    "kind",
    ["slender", "floats", *(pytest.param(k, marks=pytest.mark.slow) for k in ("JPEG", "PNG"))],
)
def test_memory_is_bounded(kind, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(dz.__file__).parents[1])}
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", LARGE, kind, *more],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                check=True,
            ).stdout
        )
        for more in ([], ["read"])
    ]
    assert max(peaks) < {"slender": 250, "floats": 600}.get(kind, 1536)


def test_in_memory_files_are_read_and_left_as_they_were(pixels, tmp_path):
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")  # stands at its end
    raw, end = buffer.getvalue(), buffer.tell()
    (tmp_path / "a.png").write_bytes(raw)
    url = "data:image/png;base64," + base64.b64encode(raw).decode()
    percent = "data:image/png," + "".join(f"%{b:02x}" for b in raw)
    cells = [{"bytes": raw, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]
    for source in (raw, bytearray(raw), memoryview(raw), buffer, url, percent, *cells):
        assert np.array_equal(load_image(source), pixels)
        assert is_one(source) and len(split_images(source)) == 1
    assert buffer.tell() == end and not buffer.closed
    with (tmp_path / "a.png").open("rb") as file:
        file.seek(5)
        assert np.array_equal(load_image(file), pixels)
        assert file.tell() == 5 and not file.closed


def test_pil_subclasses_and_odd_tensors(pixels):
    class Mine(Image.Image):
        pass

    own = Mine.__new__(Mine)
    own.__dict__.update(Image.fromarray(pixels).__dict__)
    assert np.array_equal(load_image(own), pixels)
    grey = torch.arange(16.0).view(4, 4) / 16  # exact in few bits
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        out = load_image(grey.to(kind).requires_grad_(), value_range=(0, 1))
        assert np.array_equal(out, load_image(grey.numpy(), value_range=(0, 1)))
    with pytest.raises(dz.InputError, match="on meta\\) cannot be read"):
        load_image(torch.zeros(3, 4, 4, device="meta"))


@pytest.mark.parametrize("count", [1, 2])
def test_collections_are_many_whatever_they_are_made_of(count, pixels, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(count)]
    for path in paths:
        Image.fromarray(pixels).save(path)
    for many in (
        *(paths, tuple(paths), (p for p in paths), dict.fromkeys(paths).keys(), iter(paths)),
        *(np.array(paths), np.array(paths)[:, None], np.array(paths, dtype=object)),
        *(pd.Series(paths), pd.Series(paths, dtype="string"), pd.Index(paths)),
        *(pa.array(paths), np.stack([pixels] * count), torch.zeros(count, 3, 4, 4).byte()),
    ):
        assert not is_one(many)
        assert len(load_images(many)) == count
    assert is_one(np.array(paths[0])) and len(load_images(np.array(paths[0]))) == 1
    assert not is_one({paths[0]}) and len(load_images({paths[0]})) == 1


@pytest.mark.parametrize(
    ("many", "message"),
    [
        ({"a.png", "b.png"}, "A set has no order"),
        (pd.DataFrame({"path": ["a.png"]}), r"A table \(DataFrame\) .* table\['path'\]"),
        (pa.table({"image": ["a.png"]}), r"A table \(Table\) .* table\['image'\]"),
        (np.array([["a.png", "b.png"]]), "An array of paths has one axis"),
        ([None], "Image 0: .* got NoneType"),
        (pd.Series([b"", float("nan")])[1:], r"Image 0: .* float \(NaN, a missing value\)"),
        ([[Image.new("L", (2, 2))]], "Image 0: .* got list: collections do not nest"),
        (
            [(Image.new("L", (2, 2)), 1)],
            "Image 0: .* of pairs, such as an image and its label, give the images",
        ),
        ([{"image": "a.png", "label": 3}], "Image 0: .* got the keys 'image', 'label'"),
        ([{"bytes": None, "path": None}], "Image 0: .* got NoneType and NoneType"),
        ([Image.new("L", (2, 2)), b"RIFF"], "Image 1: The encoded bytes: not an image"),
        (np.array([np.zeros((2, 2, 3)), None], dtype=object)[1:], "Image 0: .* NoneType"),
        (np.zeros((2, 3, 8, 9), dtype=np.uint8), r"Image 0: .* array.transpose\(1, 2, 0\)"),
        ([np.zeros(784, dtype=np.uint8)], "Image 0: .* reshape"),
        (np.zeros((2, 3, 8, 9), dtype=object), "Image 0: An image array holds numbers"),
        (np.ma.masked_equal(np.zeros((4, 4), np.uint8), 0), "masked in places"),
        (
            torch.nested.nested_tensor([torch.zeros(3, 4, 4)]),
            "without one shape is no image and no batch",
        ),
    ],
)
def test_what_is_refused_says_where_and_why(many, message):
    with pytest.raises(dz.InputError, match=message):
        load_images(many)


def test_rows_of_numbers_are_not_taken_for_one_grey_image():
    digits = load_digits().data
    noise = np.random.default_rng(0).integers(0, 256, (500, 784), dtype=np.uint8)
    for flat in (digits, digits[:100], torch.tensor(digits[:60]), noise, noise[:1]):
        with pytest.raises(dz.InputError, match="looks like rows of numbers, each an image of"):
            split_images(flat)
    photo = Image.fromarray(load_sample_images().images[0]).convert("L")
    for size in ((256, 192), (1024, 768), (400, 300), (64, 48), (768, 512), (784, 500), (64, 64)):
        assert len(split_images(np.asarray(photo.resize(size)))) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HTTPS://example.org/a.png", "URLs are not fetched"),
        (Path("https://example.org/a.png"), "URLs are not fetched"),
        ("s3://bucket/a.png", "URLs are not fetched"),
        ("data:image/png;base64,@@", "damaged base64"),
        ("data:image/png", "a comma before its data"),
        ("iVBORw0KGgoAAAANSUhEUgAAAAoAAA", "looks like an image in base64"),
        ("a/" * 3000 + "b.png", "File name too long"),
        ("a\0b", "not a file name"),
        ("", "path of the image is empty"),
        ("/dev/zero", "not a regular file"),
    ],
)
def test_texts_that_are_no_path(name, message):
    with pytest.raises(dz.InputError, match=message) as caught:
        load_image(name)
    assert len(str(caught.value)) < 500


def test_streams_that_cannot_be_read(tmp_path):
    class Upload:
        async def read(self, size=-1):
            return b""

    text = io.StringIO("a")
    closed = io.BytesIO(b"a")
    closed.close()
    write_only = (tmp_path / "w").open("wb")
    for file, message in (
        (text, "opened as text"),
        (closed, "closed file"),
        (write_only, "cannot be read"),
        (Upload(), "reading gave coroutine, not bytes"),
    ):
        with pytest.raises(dz.InputError, match=message):
            load_image(file)
    write_only.close()
    Image.new("L", (2, 2)).save(tmp_path / "w.png")
    with Image.open(tmp_path / "w.png") as closed_image:
        pass
    with pytest.raises(dz.InputError, match="was closed before it was read"):
        load_image(closed_image)


@pytest.mark.parametrize("value_range", [(1, 1), 3, ("a", "b"), (0, np.inf), (0, 1, 2)])
def test_ranges_that_are_none(value_range):
    with pytest.raises(dz.InputError, match="value_range is what black and what white is"):
        load_image(np.zeros((4, 4)), value_range)


def test_linked_folders_are_followed_once_and_leftovers_passed_by(pixels, tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "__MACOSX", inside / ".ipynb_checkpoints", outside):
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "b.png")
    (inside / "._b.png").write_bytes(b"")
    (inside / "more").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    assert image_files(inside) == [inside / "more" / "b.png"]


def test_one_or_many(pixels):
    assert len(split_images(pixels)) == 1
    assert len(split_images(np.stack([pixels] * 3))) == 3
    assert len(split_images([pixels, pixels])) == 2
    assert len(split_images("a.png")) == 1
    assert len(split_images(torch.zeros(2, 3, 4, 4))) == 2
    with pytest.raises(dz.InputError, match="neither one image nor a batch"):
        split_images(np.zeros((7, 8, 8), dtype=np.uint8))


def test_fit_square_crops_the_centre_and_keeps_exact_sizes():
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255
    assert (fit_square(wide, 8) == 255).all()
    assert fit_square(np.zeros((5, 300, 3), np.uint8), 32).shape == (32, 32, 3)
    square = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert fit_square(square, 8) is square
    assert to_tensor([square], 8).min() >= -1 and to_tensor([square], 8).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("shape", [(1, 300), (301, 2), (5, 200), (640, 30)])
def test_slender_images_are_cropped_before_they_are_resized(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    size = 16
    scale = size / min(shape)
    whole = Image.fromarray(image).resize(
        (round(shape[1] * scale), round(shape[0] * scale)), Image.Resampling.BICUBIC
    )
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    want = np.asarray(whole.crop((left, top, left + size, top + size))).astype(int)
    assert trim(image, size).size < image.size
    assert np.abs(fit_square(image, size) - want).mean() < 3


def test_trim_leaves_ordinary_images_alone():
    for shape in ((10, 160, 3), (100, 99, 3)):
        image = np.zeros(shape, np.uint8)
        assert trim(image, 512) is image


def test_affine_turns_scales_and_shifts():
    import torch

    from diffzero.images import affine

    x = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros(2), torch.ones(2)
    assert torch.allclose(affine(x, zero, one, torch.zeros(2, 2)), x, atol=1e-6)
    half = affine(x, zero + np.pi, one, torch.zeros(2, 2))
    assert torch.allclose(half, x.flip(-1, -2), atol=1e-5)
    moved = affine(x, zero, one, torch.tensor([[2 / 9, 0.0]] * 2))  # one pixel of nine
    assert torch.allclose(moved[..., :-1], x[..., 1:], atol=1e-5)


def test_deep_images_are_not_black(tmp_path):
    grey = np.full((4, 4), 200, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    with pytest.raises(dz.InputError, match="whole numbers of 16 bits up to 200.*as 8 bits"):
        dz.load_image(tmp_path / "a.png")
    Image.fromarray(grey * 257).save(tmp_path / "b.png")
    assert (dz.load_image(tmp_path / "b.png") == 200).all()
    # A TIFF of 12 bits, all white: header, one directory, 4 x 2 pixels of 1.5 bytes.
    tags = [(256, 4), (257, 2), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 2),
            (279, 12)]  # fmt: skip
    raw = b"II*\0" + struct.pack("<IH", 8, len(tags))
    raw += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    raw += struct.pack("<I", 0)
    (tmp_path / "c.tif").write_bytes(raw.ljust(122, b"\0") + b"\xff" * 12)
    assert (dz.load_image(tmp_path / "c.tif") == 255).all()


def test_images_that_pillow_does_not_read_say_so(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=text)
    with pytest.raises(dz.InputError, match="metadata are larger than Pillow reads"):
        dz.load_image(tmp_path / "a.png")
