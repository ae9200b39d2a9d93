import numpy as np
import pytest
import torch
from PIL import Image

import diffzero as dz
from diffzero.images import fit_square, load_image, split_images, to_tensor


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


def test_animation_gives_its_first_frame(pixels, tmp_path):
    first, second = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    first.save(tmp_path / "a.png", save_all=True, append_images=[second])
    image = Image.open(tmp_path / "a.png")
    image.seek(1)
    assert np.array_equal(load_image(image), pixels)
    assert np.array_equal(load_image(tmp_path / "a.png"), pixels)


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
        ("empty", "not an image that can be read"),
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
        (np.zeros((0, 4, 3), dtype=np.uint8), "is empty"),
        (np.zeros((4, 4, 5), dtype=np.uint8), r"shape \[height, width\]"),
        (torch.zeros(5, 4, 3), r"shape \[channels, height, width\]"),
        ("https://example.org/cat.jpg", "URLs are not fetched"),
        ("photo.heic", "no such file"),
        (42, "path, a PIL image, an array or a tensor; got int"),
        (Image.new("RGB", (0, 4)), "size 0x4"),
        (Image.new("F", (4, 4)), "carry no range"),
    ],
)
def test_bad_sources(source, message):
    with pytest.raises(dz.InputError, match=message):
        load_image(source)


def test_values_outside_the_declared_range_are_refused():
    with pytest.raises(dz.InputError, match="outside value_range"):
        load_image(np.full((2, 2, 3), 200.0), value_range=(0, 1))


def test_heic_gets_a_clear_no(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(dz.InputError, match="HEIC is not read; convert it"):
        load_image(tmp_path / "a.heic")


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
