"""The bank: budgets, least recently used first, a refused adapter disturbs nothing."""

from __future__ import annotations

import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file

import serving.bank
from diffusion.load import load_parts
from diffusion.lora import Stack
from serving.adapter import TOKEN, WEIGHTS
from serving.bank import BARE, Bank, Wanted
from serving.errors import AdapterLost, AdapterRefused
from tests.tiny_adapters import EVERYTHING, tiny_adapter, write_card


@pytest.fixture
def make(bases):
    made = []

    def bank(family="sd15", **budget) -> Bank:
        base = bases[family]
        made.append(Bank(load_parts(base.folder, family), base, **budget))
        return made[-1]

    yield bank
    for each in made:
        each.close()


def seat(bank, wanted):
    with bank.seated(wanted) as slots:
        return slots


def stored(bank, slot):
    return bank._stacks["unet"].state(slot)


def test_a_person_in_a_slot_costs_nothing_again(make, people):
    bank = make()
    first = seat(bank, [Wanted(people["sd15"][0]), Wanted(people["sd15"][1]), Wanted(None)])
    assert len(set(first)) == 3
    assert first[2] == BARE
    assert (bank.loads, bank.puts) == (2, 2)
    assert seat(bank, [Wanted(people["sd15"][1]), Wanted(people["sd15"][0])]) == first[1::-1]
    assert (bank.loads, bank.puts) == (2, 2)


def test_lower_ranks_are_padded_and_exact(make, people):
    bank = make()
    slots = seat(bank, [Wanted(people["sd15"][n]) for n in (4, 0)])
    for n, slot in zip((4, 0), slots, strict=True):
        original = load_file(people["sd15"][n] / WEIGHTS)
        now = stored(bank, slot)
        for key, value in original.items():
            rank = n + 2
            kept = now[key][:rank] if "lora_A" in key else now[key][:, :rank]
            rest = now[key][rank:] if "lora_A" in key else now[key][:, rank:]
            assert torch.equal(kept, value)
            assert not rest.any()


def test_a_higher_rank_or_new_layers_make_room_for_everybody(make, people, bases, tmp_path):
    bank = make()
    seat(bank, [Wanted(people["sd15"][0])])
    assert bank._rank == 2
    wide = tiny_adapter(
        tmp_path / "wide", bank._parts, bases["sd15"], seed=9, rank=8, targets=EVERYTHING
    )
    slots = seat(bank, [Wanted(wide), Wanted(people["sd15"][0])])
    assert bank._rank == 8
    old = load_file(people["sd15"][0] / WEIGHTS)
    assert all(
        torch.equal(stored(bank, slots[1])[k][:2], v) for k, v in old.items() if "lora_A" in k
    )
    new = load_file(wide / WEIGHTS)
    assert all(torch.equal(stored(bank, slots[0])[key], value) for key, value in new.items())


def test_the_least_recently_used_leaves_the_device_first(make, people):
    bank = make(device_bytes=0, batch_rows=2)
    a, b, c = (Wanted(people["sd15"][n]) for n in (2, 1, 0))
    seat(bank, [a])
    assert bank.slots == 2
    seat(bank, [b])
    seat(bank, [a])
    seat(bank, [c])  # b leaves
    puts = bank.puts
    seat(bank, [a])
    assert bank.puts == puts
    seat(bank, [b])
    assert bank.puts == puts + 1
    assert bank.loads == 3, "host memory still had everybody"


def test_a_batch_never_evicts_its_own_people(make, people):
    bank = make(device_bytes=0, batch_rows=3)
    everybody = [Wanted(folder) for folder in people["sd15"][::-1]]
    seat(bank, everybody[:1])
    for _ in range(3):
        for start in range(4):
            slots = seat(bank, everybody[start : start + 3])
            assert len(set(slots)) == 3
            for wanted, slot in zip(everybody[start : start + 3], slots, strict=True):
                key, value = next(iter(load_file(wanted.folder / WEIGHTS).items()))
                assert torch.equal(stored(bank, slot)[key][: value.shape[0]], value)


def test_the_host_budget_holds_and_the_least_recently_used_leaves(make, people):
    sizes = [
        sum(t.nbytes for f in (WEIGHTS, TOKEN) for t in load_file(folder / f).values())
        for folder in people["sd15"]
    ]
    bank = make(host_bytes=sizes[4] + sizes[5])
    for folder in people["sd15"]:
        bank.adapter(folder)
        assert bank.used_bytes <= sizes[4] + sizes[5]
    loads = bank.loads
    bank.adapter(people["sd15"][5])
    bank.adapter(people["sd15"][4])
    assert bank.loads == loads
    bank.adapter(people["sd15"][0])
    assert bank.loads == loads + 1


def test_an_adapter_larger_than_the_bank_is_refused(make, people):
    with pytest.raises(AdapterRefused, match="the bank holds 1000"):
        make(host_bytes=1000).adapter(people["sd15"][0])


def test_others_are_seated_while_somebody_is_read(make, people, monkeypatch):
    bank = make()
    bank.adapter(people["sd15"][0])
    begun, go_on, read = threading.Event(), threading.Event(), serving.bank.read_adapter

    def slow(*given):
        begun.set()
        assert go_on.wait(60)
        return read(*given)

    monkeypatch.setattr(serving.bank, "read_adapter", slow)
    threads = [threading.Thread(target=bank.adapter, args=(people["sd15"][1],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    seated = threading.Thread(target=seat, args=(bank, [Wanted(people["sd15"][0])]))
    seated.start()
    seated.join(30)
    assert not seated.is_alive(), "a load held up the drawing"
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert bank.loads == 2, "two who read the same hold it once"


def test_strengths_of_one_person_are_different_places(make, people):
    bank = make()
    slots = seat(bank, [Wanted(people["sd15"][0], 1.0), Wanted(people["sd15"][0], 0.5)])
    assert len(set(slots)) == 2
    assert bank.loads == 1


def test_a_refused_adapter_disturbs_nothing(make, people, bases, tmp_path):
    bank = make()
    good = Wanted(people["sd15"][0])
    slots = seat(bank, [good])
    before = stored(bank, slots[0])
    wrong = shutil.copytree(people["sd15"][5], tmp_path / "wrong")
    write_card(wrong, bases["sd15"], base_sha256="0" * 64)
    for _ in range(2):
        with pytest.raises(AdapterRefused, match="wrong"):
            seat(bank, [Wanted(people["sd15"][1]), Wanted(wrong)])
    assert bank._rank == 2, "not even the room for it was made"
    loads = bank.loads
    assert seat(bank, [good]) == slots
    assert bank.loads == loads
    assert all(torch.equal(stored(bank, slots[0])[k], v) for k, v in before.items())


def test_who_is_on_the_device_needs_neither_disk_nor_host_memory(make, people, tmp_path):
    folder = shutil.copytree(people["sd15"][5], tmp_path / "version")
    bank = make(host_bytes=120_000, batch_rows=2)
    wanted = Wanted(folder)
    slots = seat(bank, [wanted])
    for other in people["sd15"][3:5]:
        bank.adapter(other)
    assert not any(key[0] == str(folder) for key in bank._host), "others took its host memory"
    loads = bank.loads
    bank.check(wanted)
    assert seat(bank, [wanted]) == slots
    shutil.rmtree(folder)
    bank.check(wanted)
    assert seat(bank, [wanted]) == slots
    assert bank.loads == loads


def test_files_that_are_gone_do_not_matter_to_who_is_held(make, people, tmp_path):
    bank = make()
    folder = shutil.copytree(people["sd15"][0], tmp_path / "version")
    bank.adapter(folder)
    shutil.rmtree(folder)
    (slot,) = seat(bank, [Wanted(folder)])
    assert any(value.any() for value in stored(bank, slot).values())
    bank.forget(folder)
    assert bank.used_bytes == 0
    with pytest.raises(AdapterLost, match=r"does not exist.*It could when"):
        seat(bank, [Wanted(folder)])
    with pytest.raises(AdapterRefused, match="does not exist"):
        bank.check(Wanted(folder))


def test_wider_stacks_are_filled_again_with_who_was_resident(make, people):
    bank = make()
    seat(bank, [Wanted(people["sd15"][0])])
    slots = seat(bank, [Wanted(people["sd15"][0]), Wanted(people["sd15"][5])])
    for n, slot in zip((0, 5), slots, strict=True):
        key, value = next(iter(load_file(people["sd15"][n] / WEIGHTS).items()))
        assert torch.equal(stored(bank, slot)[key][: value.shape[0]], value)


def test_a_version_written_again_is_read_again(make, people, tmp_path):
    bank = make()
    folder = shutil.copytree(people["sd15"][0], tmp_path / "version")
    (slot,) = seat(bank, [Wanted(folder)])
    first = stored(bank, slot)
    shutil.copy(people["sd15"][1] / WEIGHTS, folder / WEIGHTS)
    (slot,) = seat(bank, [Wanted(folder)])
    key = next(iter(first))
    assert not torch.equal(stored(bank, slot)[key][:2], first[key])


def test_forgetting_a_person_leaves_no_weights_behind(make, people):
    bank = make()
    wanted = Wanted(people["sd15"][0])
    (slot,) = seat(bank, [wanted])
    bank.forget(people["sd15"][0])
    assert bank.used_bytes == 0
    assert not any(value.any() for value in stored(bank, slot).values())
    assert not bank._tokens.vectors[0][slot].any()
    seat(bank, [wanted])
    assert bank.loads == 2


def test_who_has_no_folder_any_more_is_forgotten_and_nobody_else(make, people, tmp_path):
    bank = make()
    erased = shutil.copytree(people["sd15"][0], tmp_path / "erased")
    slot, other = seat(bank, [Wanted(erased), Wanted(people["sd15"][1])])
    assert bank.forget_lost() == 0
    shutil.rmtree(erased)
    assert bank.forget_lost() == 1
    assert not any(value.any() for value in stored(bank, slot).values())
    assert not bank._tokens.vectors[0][slot].any()
    assert any(value.any() for value in stored(bank, other).values())
    with pytest.raises(AdapterRefused, match="does not exist"):
        bank.check(Wanted(erased))
    bank.check(Wanted(people["sd15"][1]))


def test_more_people_than_places_is_an_error_not_a_mixup(make, people):
    bank = make(device_bytes=0, batch_rows=2)
    with pytest.raises(ValueError, match="do not fit"):
        seat(bank, [Wanted(folder) for folder in people["sd15"][::-1]])


@pytest.mark.parametrize("place", ["attach", "TokenBank"])
def test_no_room_for_wider_stacks_leaves_nobody_half_seated(make, people, monkeypatch, place):
    bank = make(batch_rows=2)
    one, two = people["sd15"][0], people["sd15"][5]
    (slot,) = seat(bank, [Wanted(one)])
    before = stored(bank, slot)
    with monkeypatch.context() as patch:
        full = MemoryError("can't allocate memory")
        patch.setattr(serving.bank, place, lambda *_given: (_ for _ in ()).throw(full))
        with pytest.raises(MemoryError):
            seat(bank, [Wanted(two)])  # of a higher rank
    slots = seat(bank, [Wanted(one), Wanted(two)])
    assert BARE not in slots and len(set(slots)) == 2
    for key, value in before.items():
        now = stored(bank, slots[0])[key]
        part = now[:, : value.shape[1]] if "lora_B" in key else now[: value.shape[0]]
        assert torch.equal(part, value), key
    assert sum(len(module._forward_hooks) for module in bank._parts.unet.modules()) == len(
        bank._stacks["unet"].sites
    )


def test_a_person_who_could_not_be_put_is_put_again(make, people, monkeypatch):
    bank = make(batch_rows=2)
    seat(bank, [Wanted(people["sd15"][5])])
    wanted = [Wanted(people["sd15"][0])]
    with monkeypatch.context() as patch:
        full = MemoryError("can't allocate memory")
        patch.setattr(Stack, "load", lambda *_given: (_ for _ in ()).throw(full))
        with pytest.raises(MemoryError):
            seat(bank, wanted)
    (slot,) = seat(bank, wanted)
    assert any(value.any() for value in stored(bank, slot).values()), "drawn as nobody"


def test_a_person_forgotten_while_drawn_stays_until_the_batch_is_done(make, people):
    bank = make(device_bytes=0, batch_rows=2)
    with bank.seated([Wanted(people["sd15"][0])]) as (slot,):
        bank.forget(people["sd15"][0])
        assert any(value.any() for value in stored(bank, slot).values())
        assert bank.used_bytes == 0
    assert not any(value.any() for value in stored(bank, slot).values())
    everybody = seat(bank, [Wanted(people["sd15"][0]), Wanted(None)])
    assert everybody[1] == BARE
