"""Images of every kind come out as RGB 8 bit in stored order, or as an error with their path."""

import io

import numpy as np
import pytest
from PIL import Image

from ssl_loc.data import image_io
from ssl_loc.data.image_io import decode_jpeg_with_opencv, decode_with_pil, jpeg_components, read_image, read_size
from ssl_loc.saliency.map_io import read_map
from ssl_loc.utils.errors import DataError


def ramp(height=24, width=40):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 6, y * 10, 255 - x * 3], axis=2).astype(np.uint8)


def save(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def check(image):
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.flags["C_CONTIGUOUS"]


def test_rgb_and_grey(tmp_path):
    path = save(tmp_path, Image.fromarray(ramp()), "a.png")
    assert np.array_equal(read_image(path), ramp())
    assert read_size(path) == (24, 40)
    grey = ramp()[:, :, 0]
    for suffix in ("png", "bmp"):
        image = read_image(save(tmp_path, Image.fromarray(grey), f"g.{suffix}"))
        check(image)
        assert np.array_equal(image, np.repeat(grey[:, :, None], 3, axis=2))
    bits = read_image(save(tmp_path, Image.fromarray(grey > 99), "bits.png"))
    assert np.array_equal(bits[:, :, 1], (grey > 99) * 255)


def test_alpha_is_composited_on_black(tmp_path):
    alpha = np.zeros((24, 40), dtype=np.uint8)
    alpha[:, :20] = 255
    alpha[:, 20:30] = 51  # a fifth
    rgba = np.dstack([ramp(), alpha])
    image = read_image(save(tmp_path, Image.fromarray(rgba), "rgba.png"))
    expected = np.rint(ramp() * (alpha[:, :, None] / 255.0))
    check(image)
    assert np.abs(image - expected).max() <= 1
    la = Image.fromarray(np.dstack([ramp()[:, :, 0], alpha]))
    assert la.mode == "LA"
    assert np.abs(read_image(save(tmp_path, la, "la.png"))[:, :, 2] - expected[:, :, 0]).max() <= 1


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert read_image(save(tmp_path, palette, "p.png"))[0, 0].tolist() == [200, 100, 50]
    assert read_image(save(tmp_path, palette, "pt.png", transparency=1))[0, 0].tolist() == [0, 0, 0]


def test_cmyk_jpeg(tmp_path):
    path = save(tmp_path, Image.new("CMYK", (16, 8), (0, 255, 255, 0)), "c.jpg", quality=95)
    assert jpeg_components(path.read_bytes()) == 4
    image = read_image(path)
    check(image)
    assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 4


def test_sixteen_bit_and_float_are_rescaled_linearly(tmp_path):
    values = np.linspace(0, 65535, 24 * 40).reshape(24, 40)
    sixteen = Image.fromarray(values.astype(np.uint16))
    for suffix in ("png", "tif"):
        image = read_image(save(tmp_path, sixteen, f"s.{suffix}"))
        check(image)
        assert np.array_equal(image[:, :, 0], np.rint(values.astype(np.uint16) / 257.0))
    unit = (values / 65535).astype(np.float32)
    assert np.array_equal(read_image(save(tmp_path, Image.fromarray(unit), "f.tif"))[:, :, 0], np.rint(unit * 255.0))
    wide = (values / 65535 * 900 - 300).astype(np.float32)  # -300..600: stretched from minimum to maximum
    stretched = read_image(save(tmp_path, Image.fromarray(wide), "w.tif"))[:, :, 0]
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert np.abs(stretched - values / 257).max() <= 1
    bad = unit.copy()
    bad[0, 0] = np.nan
    with pytest.raises(DataError, match="nan.tif.*not all finite"):
        read_image(save(tmp_path, Image.fromarray(bad), "nan.tif"))


def test_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    path = save(tmp_path, Image.fromarray(ramp()), "e.jpg", exif=exif, quality=95)
    assert read_image(path).shape == (24, 40, 3)
    assert decode_jpeg_with_opencv(path.read_bytes()).shape == (24, 40, 3)
    assert read_size(path) == (24, 40)


@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", 0), ("RGB", 2), ("L", 0)])
def test_the_decoders_agree(tmp_path, mode, subsampling):
    path = save(tmp_path, Image.fromarray(ramp(65, 97)).convert(mode), "j.jpg", quality=90, subsampling=subsampling)
    data = path.read_bytes()
    reference = decode_with_pil(path).astype(int)
    check(decode_jpeg_with_opencv(data))
    assert np.abs(decode_jpeg_with_opencv(data) - reference).max() <= 2
    fast = image_io.decode_jpeg(data)
    check(fast)
    assert np.abs(fast - reference).max() <= 2


@pytest.mark.parametrize("with_simplejpeg", [True, False])
@pytest.mark.parametrize("name", ["t.jpg", "t.png"])
def test_cut_off_files_are_errors_with_their_path(tmp_path, monkeypatch, with_simplejpeg, name):
    if not with_simplejpeg:
        monkeypatch.setattr(image_io, "simplejpeg", None)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=name):
        read_image(path)


def test_trailing_bytes_do_no_harm(tmp_path, monkeypatch):
    path = save(tmp_path, Image.fromarray(ramp()), "x.jpg", quality=95)
    clean = read_image(path)
    path.write_bytes(path.read_bytes() + b"camera maker's own data")
    assert np.abs(read_image(path).astype(int) - clean).max() <= 2
    monkeypatch.setattr(image_io, "simplejpeg", None)
    assert np.abs(read_image(path).astype(int) - clean).max() <= 2


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"GIF89a", b"not a picture at all"])
def test_rubbish_and_missing_files(tmp_path, content):
    path = tmp_path / "r.jpg"
    with pytest.raises(DataError, match=r"cannot read image .*r\.jpg: No such file"):
        read_image(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"r\.jpg"):
        read_image(path)
    with pytest.raises(DataError, match=r"r\.jpg"):
        read_size(path)


def test_progressive_and_animated(tmp_path):
    path = save(tmp_path, Image.fromarray(ramp()), "p.jpg", progressive=True, quality=95)
    assert np.abs(read_image(path).astype(int) - decode_with_pil(path)).max() <= 2
    frames = [Image.new("RGB", (5, 3), c) for c in ("red", "blue")]
    path = tmp_path / "m.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


def test_maps_of_every_kind(tmp_path):
    grey = ramp()[:, :, 0]
    assert np.array_equal(read_map(save(tmp_path, Image.fromarray(grey), "l.png")), grey)
    assert np.array_equal(read_map(save(tmp_path, Image.fromarray(grey > 99), "1.png")), (grey > 99) * 255)
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(read_map(save(tmp_path, sixteen, "16.png")), grey)
    colour = Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))
    assert np.abs(read_map(save(tmp_path, colour, "rgb.png")).astype(int) - grey).max() <= 1
    alpha = Image.fromarray(np.dstack([grey, np.zeros_like(grey)]))
    assert read_map(save(tmp_path, alpha, "la.png")).max() == 0
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:-300])
    with pytest.raises(DataError, match=r"cannot decode map .*cut\.png"):
        read_map(tmp_path / "cut.png")
    with pytest.raises(DataError, match=r"cannot read map .*none\.png"):
        read_map(tmp_path / "none.png")
