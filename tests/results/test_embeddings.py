"""Files of embeddings: what is in memory while they are written, and parts without rows."""

import weakref

import numpy as np
import pyarrow.parquet as pq

from byol_jax.results import embeddings


def test_rows_in_memory_do_not_grow_with_the_set(tmp_path):
    """A row group, the batch that completed it, and its copy; of 100 batches."""
    made: list[weakref.ref] = []
    most = 0

    def batches():
        nonlocal most
        for start in range(0, 25_600, 256):
            ids = np.arange(start, start + 256)
            array = np.full((256, 4), start, np.float32)
            made.append(weakref.ref(array))
            most = max(most, sum(reference() is not None for reference in made))
            yield embeddings.Rows(ids, ["x"] * 256, ids, array)
            del array

    path = tmp_path / "new" / "part.parquet"
    embeddings.write_part(path, tmp_path / "partial", batches(), 4, {})
    assert most <= 2 + embeddings.GROUP // 256
    file = pq.ParquetFile(path)
    assert file.metadata.num_rows == 25_600 and file.metadata.num_row_groups == 25
    assert {file.metadata.row_group(i).num_rows for i in range(25)} == {1024}
    np.testing.assert_array_equal(embeddings.part_ids(path), np.arange(25_600))


def test_a_part_may_have_no_rows(tmp_path):
    path = tmp_path / "part.parquet"
    none = embeddings.joined([], 4)
    embeddings.write_part(path, tmp_path / "partial", iter([none, none]), 4, {"images": 1})
    assert embeddings.part_ids(path).shape == (0,)
    assert embeddings.part_about(path) == {"images": 1}
    assert pq.read_schema(path).field("embedding").type.list_size == 4
    assert [file.name for file in tmp_path.iterdir()] == ["part.parquet"]
