import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.errors import ImageError, InputError
from pconv_deploy.training.pictures import Shards, epoch_order, open_pictures


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path: Path, values: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for value in values:
            for suffix, content in ((".png", picture(value)), (".cls", b"7")):
                member = tarfile.TarInfo(f"{value:04d}{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def value_of(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


@pytest.mark.parametrize(
    ("layout", "place"),
    [
        ("folder", "a/b"),
        ("imagenet", "train/n01440764"),
        ("places2", "data_large/a/abbey"),
        ("celeba-hq", "CelebA-HQ-img"),
    ],
)
def test_data_sets_as_they_unpack(layout: str, place: str, tmp_path: Path) -> None:
    for number, name in enumerate(("b.png", "a.png")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / name).write_bytes(picture(number))
    if layout != "folder":  # what is not for training lies beside it
        (tmp_path / "val").mkdir()
        (tmp_path / "val" / "c.png").write_bytes(picture(9))
    source = open_pictures(tmp_path, layout)
    assert [value_of(source.read(n)) for n in range(len(source))] == [1, 0]


@pytest.mark.parametrize("pattern", ["{0..1}/s-{00..02}.tar", "{0,1}/s-{00..02}.tar", ""])
def test_shards_over_several_disks(pattern: str, tmp_path: Path) -> None:
    for disk in range(2):
        for shard in range(3):
            first = disk * 30 + shard * 10
            write_shard(tmp_path / str(disk) / f"s-{shard:02d}.tar", range(first, first + 10))
    source = open_pictures(f"{tmp_path}/{pattern}", "webdataset")
    assert isinstance(source, Shards)
    assert [value_of(source.read(n)) for n in range(len(source))] == list(range(60))
    assert [len(group) for group in source.groups] == [10] * 6


def test_each_epoch_is_another_order_of_all_pictures_group_by_group(tmp_path: Path) -> None:
    for shard in range(20):
        write_shard(tmp_path / f"{shard:02d}.tar", range(shard * 10, shard * 10 + 10))
    source = open_pictures(tmp_path, "webdataset")
    first, again, second = (epoch_order(source, 3, epoch) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert sorted(first.tolist()) == list(range(200))
    # Eight shards at a time.
    assert len(set((first[:80] // 10).tolist())) == 8
    assert (epoch_order(source, 4, 0) != first).any()


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_pictures(tmp_path / "none")
    with pytest.raises(InputError, match="holds no pictures"):
        open_pictures(tmp_path)
    with pytest.raises(InputError, match="does not have the layout imagenet: needed one of ILSVRC"):
        open_pictures(tmp_path, "imagenet")
    with pytest.raises(InputError, match="holds no shards"):
        open_pictures(tmp_path, "webdataset")
    with pytest.raises(InputError, match="3 of 3 shards do not exist"):
        open_pictures(f"{tmp_path}/{{0..2}}.tar", "webdataset")
    for endless in ("{0..999999999}.tar", "{5..2}.tar", "{0..99999}{0..99999}.tar"):
        with pytest.raises(InputError, match="100000"):
            open_pictures(endless, "webdataset")
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match="not a complete, uncompressed tar file"):
        open_pictures(tmp_path / "bad.tar", "webdataset")
    write_shard(tmp_path / "bad.tar", range(0))
    with pytest.raises(InputError, match="no images in 1 shards"):
        open_pictures(tmp_path / "bad.tar", "webdataset")


def test_a_damaged_member_is_named_by_its_place(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", range(2))
    source = open_pictures(tmp_path, "webdataset")
    assert isinstance(source, Shards)
    content = bytearray((tmp_path / "s.tar").read_bytes())
    start = int(source.offset[1])
    content[start + 20 : start + 60] = b"\0" * 40
    (tmp_path / "s.tar").write_bytes(content)
    assert value_of(source.read(0)) == 0
    with pytest.raises(ImageError, match=rf"s.tar/at byte {start} "):
        source.read(1)


def test_a_shard_that_breaks_off_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", range(4))
    content = bytearray((tmp_path / "s.tar").read_bytes())
    second = content.index(b"0001.png")
    content[second + 100 : second + 160] = b"x" * 60  # its header
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(InputError, match=f"damaged at byte {second}"):
        open_pictures(tmp_path, "webdataset")


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / "a.png")
    pixels = np.asarray(open_pictures(tmp_path).read(0))
    np.testing.assert_array_equal(pixels, (shades >> 8)[..., None].repeat(3, axis=2))


def test_what_of_shards_is_not_read_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "a.tar", range(3))
    with tarfile.open(tmp_path / "a.tar", "a") as shard:
        for name in ("0003.heic", "0004.dng"):
            shard.addfile(tarfile.TarInfo(name))
    (tmp_path / "b.tar.gz").touch()
    assert len(open_pictures(tmp_path, "webdataset")) == 3
    assert "skipped 2 images of unsupported formats, such as 0003.heic in" in caplog.text
    assert "skipped 1 compressed shards, such as" in caplog.text
    (tmp_path / "a.tar").unlink()
    with pytest.raises(InputError, match=r"no shards \(\*\.tar\); found 1 compressed"):
        open_pictures(tmp_path, "webdataset")
