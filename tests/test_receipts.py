"""Receipt codes: unguessable, stored as a hash, and no way to delete what the server's owner brought in."""

import hashlib

import pytest
from sqlalchemy import select

from annotations import receipts
from annotations.db.schema import ReceiptRecord
from annotations.store import Store
from mmer.errors import LabelError

SHA = "a" * 64
LABEL = {"emotions": "fear"}


def saved(store: Store, code: str, sha256: str = SHA) -> None:
    store.save(None, sha256, "bea", clip={"name": "one"}, label=LABEL, receipt=receipts.hash_of(code))


def test_codes_have_125_bits_and_differ():
    codes = {receipts.new_code() for _ in range(1000)}
    assert len(codes) == 1000
    letters = {letter for code in codes for letter in code} - {"-"}
    assert len(letters) == 32
    assert not letters & set("ILOU")  # nobody has to tell them from 1 and 0
    assert {len(code) for code in codes} == {29}


def test_the_code_itself_is_nowhere_in_the_database(tmp_path):
    opened = Store(f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "media")
    code = receipts.new_code()
    saved(opened, code)
    with opened.reading() as session:
        hashed = session.scalar(select(ReceiptRecord.code_hash))
    opened.engine.dispose()
    assert hashed == hashlib.sha256(code.replace("-", "").encode()).hexdigest()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert code.encode() not in file.read_bytes()
        assert code.replace("-", "").encode() not in file.read_bytes()


def test_a_code_is_read_as_people_write_it_down(store):
    saved(store, "O1L0A-BCDEF-GHJKM-NPQRS-TVWXY")
    removal = receipts.delete(store, " 01i0a bcdef\u2013ghjkm npqrs tvwxy ")
    assert (removal.clips, removal.labels) == (1, 1)
    assert store.counts()["clips"] == 0


def test_a_code_deletes_its_clip_and_no_other(store):
    one, other = receipts.new_code(), receipts.new_code()
    saved(store, one)
    saved(store, other, "b" * 64)
    receipts.delete(store, one)
    assert [label.sha256 for label in store.labels()] == ["b" * 64]
    with pytest.raises(LabelError, match="nothing is stored under this code"):
        receipts.delete(store, one)
    with pytest.raises(LabelError, match="this is no receipt code"):
        receipts.delete(store, other + "A")


def test_labels_that_stay_of_a_deleted_clip_have_no_code(store):
    code = receipts.new_code()
    saved(store, code)
    store.delete_clip(SHA, keep_labels=True)
    with pytest.raises(LabelError, match="nothing is stored under this code"):
        receipts.delete(store, code)
    assert store.counts()["labels"] == 1


def test_no_code_is_given_for_what_the_owner_brought_in(store, tmp_path):
    assert receipts.may_be_given(store, SHA)
    store.register_clip(None, SHA, name="one", source="import")
    assert not receipts.may_be_given(store, SHA)
    file = tmp_path / "b.wav"
    file.write_bytes(b"sound")
    store.register_clip(file, "b" * 64, name="b", in_place=True)
    assert not receipts.may_be_given(store, "b" * 64)
