"""Bad input: every line of users.md 3.3 B1-B9 is refused in a sentence or has a defined meaning, and a test says so.

B1 empty folder:
    test_cli_words.py::test_an_empty_folder_is_refused
B1 all files bad:
    test_cli_ingest.py::test_a_folder_of_bad_files_only_is_refused
B1 one sample:
    test_data_bad_input.py::test_one_image_is_a_set_and_more_than_there_are_is_refused
B1 fewer than batch or world:
    test_data_bad_input.py::test_fewer_samples_than_a_batch_are_read_equally_often
B2 truncated, empty, text, HTML:
    test_data_images.py::test_rubbish_is_one_sentence_that_names_it
B2 renamed:
    test_data_images.py::test_a_wrong_suffix_does_not_matter
B2 the policies:
    test_cli_ingest.py::test_a_folder_with_bad_files_end_to_end
B2 truncated video:
    test_data_videos.py::test_a_film_that_was_cut_off_gives_its_clips_and_one_that_says_so
B2 truncated archive:
    test_data_tars.py::test_archives_that_are_damaged_or_empty_are_refused
B3 palettes:
    test_data_images.py::test_palettes_show_their_colours_and_their_transparent_entry_is_white
B3 RGBA and LA:
    test_data_images.py::test_transparency_is_laid_on_white
B3 CMYK:
    test_data_images.py::test_cmyk_becomes_what_its_inks_leave
B3 EXIF:
    test_data_images.py::test_exif_orientation_is_applied_and_the_header_knows
B3 animations:
    test_data_images.py::test_of_an_animation_the_first_frame_counts
B3 ICC:
    test_data_images.py::test_colour_profiles_change_nothing
B3 16 bits:
    test_data_images.py::test_sixteen_bits_are_scaled_not_cut
B3 counted by mode:
    test_cli_ingest.py::test_mixed_modes_become_the_one_asked_for_and_are_counted
B4 mixed sizes:
    test_cli_ingest.py::test_mixed_sizes_are_refused_whatever_the_policy
B4 resize and crop:
    test_data_images.py::test_any_size_becomes_the_asked_one_and_a_constant_stays_constant
B4 primes and 1xN:
    test_unet.py::test_any_size_goes_through_and_nothing_comes_out_at_first
B5 bombs:
    test_data_bad_input.py::test_all_bombs_together_stay_below_300_megabytes
B5 small images that are many:
    test_data_held.py::test_a_clip_holds_the_frames_it_shows_and_is_refused_beyond_its_bytes
B6 names in folders:
    test_data_sources.py::test_names_and_links_that_lead_elsewhere_are_refused
B6 names in archives:
    test_data_tars.py::test_names_that_lead_elsewhere_are_refused
B6 links in archives:
    test_data_tars.py::test_links_devices_and_holes_are_refused
B6 names in .npz:
    test_data_held.py::test_names_in_an_npz_that_lead_elsewhere_are_refused
B6 nothing written outside:
    test_data_bad_input.py::test_hostile_ids_write_nothing_outside
B7 object arrays:
    test_data_sources.py::test_arrays_that_are_not_images_are_refused
B7 wrong schema:
    test_data_sources.py::test_parquet_with_other_columns_says_which_there_are
B7 nulls:
    test_data_sources.py::test_parquet_of_bytes_and_of_hugging_face_structs_with_all_their_columns
B7 pipe: URL:
    test_data_sources.py::test_source_of_looks_and_says_what_it_looked_for
B8 NaN and infinity:
    test_cli_unread.py::test_rows_that_are_not_finite_spoil_only_themselves
B8 NaN in rows:
    test_data_records.py::test_examples_that_break_the_rules_are_refused
B8 constant images:
    test_data_bad_input.py::test_constant_and_hidden_images_give_finite_numbers
B8 all-masked sample:
    test_data_damaged.py::test_a_mask_or_sigma_that_cannot_be_right_spoils_only_its_row
B8 no overlap between views:
    test_compose.py::test_views_of_independent_halves_are_the_whole_denoiser
B8 seen by no view:
    test_compose.py::test_what_no_view_sees_is_filled_with_its_own_variance
B8 sigma <= 0 beside images:
    test_data_damaged.py::test_a_mask_or_sigma_that_cannot_be_right_spoils_only_its_row
B8 noise < 0, p = 0 or 1:
    test_data_bad_input.py::test_the_ends_of_every_range_are_defined_or_refused
B9 ids twice in a set:
    test_cli_ingest.py::test_an_id_that_occurs_in_two_files_is_refused
B9 ids twice, between clean and noisy sets:
    test_cli_data.py::test_stored_sets_are_known_by_how_they_were_made
B9 images twice, between clean and noisy sets:
    test_cli_data.py::test_noisy_copies_of_clean_images_are_a_leak
B9 parts that share no image:
    test_cli_corrupt.py::test_a_part_is_a_range_of_ranks_however_the_rows_are_cut_into_shards
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bombs import gif_bomb, npy_bomb, npz_bomb, tar_bomb
from PIL import Image

from pipeline.data.parquet import Parquet
from pipeline.data.reader import batches
from pipeline.data.sources import Folder
from pipeline.diffusion.precond import EDM
from pipeline.physics.blackbox import BlackBox, Gamma, Jpeg
from pipeline.physics.corruption import Clean, Noisy, corrupt
from pipeline.physics.masks import BoxMask, LineMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.place import Place
from stages.corrupt import Part
from stages.ingest import Ingest, OnBad, _ingest

TESTS = Path(__file__).resolve().parents[1]
TABLE = re.findall(r"^(B\d) .*:\n {4}(\S+\.py)::(\w+)$", __doc__ or "", re.MULTILINE)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_every_line_of_the_table_names_a_test_that_exists():
    assert {line for line, _, _ in TABLE} == {f"B{i}" for i in range(1, 10)}
    assert len(TABLE) == (__doc__ or "").count("::")
    for _, file, name in TABLE:
        (path,) = TESTS.rglob(file)
        assert f"def {name}(" in path.read_text(), f"{file}::{name}"


def test_one_image_is_a_set_and_more_than_there_are_is_refused(tmp_path, ingested):
    (tmp_path / "a.png").write_bytes(png(np.full((8, 8), 7, np.uint8)))
    assert len(ingested(Folder(str(tmp_path)), (1, 8, 8))) == 1
    assert Part(0, 1).end(1) == Part().end(1) == 1
    with pytest.raises(ValueError, match=r"there are 1 images and part 0..1 was asked for: ask for fewer"):
        Part(0, 2).end(1)


def test_fewer_samples_than_a_batch_are_read_equally_often(refused):
    """Three images, batches of eight, two workers: epochs follow each other within a batch."""
    read = Counter()
    for rank in (0, 1):
        stream = batches(range(3), 8, seed=0, rank=rank, world=2)
        for _ in range(3):
            read.update(next(stream).tolist())
    assert read == {0: 8, 1: 8, 2: 8}
    with refused("batch=1", "2 workers"):
        batches(range(3), 1, 0, world=2)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs(folder: Path) -> None:
    """Files of at most some megabytes that claim, or inflate to, gigabytes."""
    wide = struct.pack(">IIBBBBB", 65535, 65535, 8, 0, 0, 0, 0)
    zeros = zlib.compress(bytes(1 << 20)) * 20
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", wide) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(data)
    tar_bomb(folder / "bomb.tar.gz", 3, 60, level=1)
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (90, 9000, 9000)})
        for _ in range(64):
            file.write(bytes(1 << 20))
    (folder / "bomb-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">4I", 0x803, 10**6, 9000, 9000) + bytes(99)))
    values = pa.array([bytes(32 << 20)] * 6)
    pq.write_table(pa.table({"image": values}), folder / "bomb.parquet", use_dictionary=False, compression="zstd")
    gif_bomb(folder / "many.gif", 4096, 16, 4096)
    gif_bomb(folder / "grows.gif", 4096, 16, 1)
    npz_bomb(folder / "rows.npz", 90)
    npy_bomb(folder / "wide.npy")
    noise = np.random.default_rng(0).integers(0, 256, 8 << 20, dtype=np.uint8).tobytes()
    same = pa.DictionaryArray.from_arrays(pa.array(np.zeros(24, np.int32)), pa.array([noise]))
    pq.write_table(
        pa.table({"image": same}),
        folder / "same.parquet",
        dictionary_pagesize_limit=1 << 30,
        store_schema=False,
        compression="none",
    )


@pytest.mark.slow
def test_all_bombs_together_stay_below_300_megabytes(tmp_path):
    """In one fresh process, through the ingest stage; `same.parquet` is 24 rows of 8 MB that are stored once."""
    bombs(tmp_path)
    code = """if True:
        import sys
        from pipeline.data.sources import source_of
        from pipeline.place import Place
        from stages.ingest import Ingest, OnBad, _ingest
        out = Place(sys.argv[1] + "/out")
        for name in sys.argv[2:]:
            try:
                source = source_of(f"{sys.argv[1]}/{'p' if name.endswith('png') else name}")
                stage = Ingest(source, (1, 8, 8), on_bad=OnBad.SKIP)
                for piece in source.pieces():
                    rows, report = _ingest(stage, out, piece)
                    assert rows is None and report["skipped"], name
                    print(name, report["skipped"][0]["why"])
            except ValueError as error:
                print(name, error)
        line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        print(int(line.split()[1]) // 1024)"""
    (tmp_path / "p").mkdir()
    (tmp_path / "bomb.png").rename(tmp_path / "p" / "bomb.png")
    names = ["bomb.png", "bomb.tar.gz", "bomb.npz", "bomb-idx3-ubyte.gz", "bomb.parquet", "same.parquet"]
    why = {"many.gif": "one clip may", "grows.gif": "one clip may", "rows.npz": "a bomb", "wide.npy": "each row takes"}
    names += why
    command = [sys.executable, "-c", code, str(tmp_path), *names]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    *lines, peak = said
    assert [line.split()[0] for line in lines] == names
    assert all(line.count(". ") == 0 and name in line.split(" ", 1)[1] for line, name in zip(lines, names, strict=True))
    assert [line for line, words in zip(lines[-len(why) :], why.values(), strict=True) if words not in line] == []
    assert int(peak) < 300, f"{peak} MB"


def test_hostile_ids_write_nothing_outside(tmp_path):
    """Ids are texts, never paths: what is kept of a bad row lies below quarantine/."""
    ids = ["../../x", "/etc/passwd", "C:\\x", "a/../../b", "n" * 1000]
    pq.write_table(pa.table({"id": ids, "image": [b"no image"] * 5}), tmp_path / "x.parquet")
    source = Parquet(str(tmp_path / "x.parquet"))
    (piece,) = source.pieces()
    rows, report = _ingest(Ingest(source, (1, 8, 8), on_bad=OnBad.QUARANTINE), Place(str(tmp_path / "out")), piece)
    assert rows is None
    assert [bad["id"] for bad in report["skipped"]] == ids
    made = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "x.parquet"]
    assert len(made) == 5
    assert all(path.parent == tmp_path / "out" / "quarantine" for path in made)


EVERY = [Clean(), Noisy(noise=0.3), PixelMask(0.0), PixelMask(0.999), BoxMask(1.0, 1.0), LineMask(0.99)]
EVERY += [BlackBox(Jpeg(1)), BlackBox(Gamma(0.01)), Mixture(((0.5, Noisy(noise=0.1)), (0.5, PixelMask(0.999))))]


@pytest.mark.parametrize("corruption", EVERY, ids=lambda c: f"{type(c).__name__}{getattr(c, 'p', '')}")
def test_constant_and_hidden_images_give_finite_numbers(corruption):
    ids = [str(i) for i in range(12)]
    for value in (-1.0, 0.0, 1.0):
        x0 = torch.full((12, 3, 4, 4), value)
        y, rows = corrupt(corruption, x0, ids, 0)
        assert y.isfinite().all()
        if isinstance(corruption, BlackBox):
            continue
        A = corruption.at(rows, (3, 4, 4))
        for out in (A(x0), A.pinv(y), A.adjoint(y), A.project(x0), corruption.variance(y, rows)):
            assert out.isfinite().all()
    if isinstance(corruption, PixelMask) and corruption.p > 0.9:
        assert (A(torch.ones(12, 3, 4, 4)).flatten(1) == 0).all(1).any(), "no sample is hidden whole"


def test_the_ends_of_every_range_are_defined_or_refused():
    x0 = torch.randn(2, 1, 4, 4)
    assert corrupt(PixelMask(0.0), x0, ["a", "b"], 0)[0].equal(x0)
    assert corrupt(Noisy(noise=0.0), x0, ["a", "b"], 0)[0].equal(x0)
    for make, words in {
        "1": (lambda: PixelMask(1.0), "0 <= p < 1"),
        "-": (lambda: PixelMask(-0.1), "0 <= p < 1"),
        "n": (lambda: Noisy(noise=-0.1), "noise must be a finite number of at least 0"),
        "i": (lambda: Noisy(noise=float("nan")), "noise must be a finite number"),
        "m": (lambda: Mixture(((1.0, Noisy(noise=0.1)), (0.0, Clean()))), "weights above 0"),
        "s": (lambda: EDM(sigma_data=0.0), "sigma_data is 0.0"),
    }.values():
        with pytest.raises(ValueError, match=words):
            make()
