"""A model that several processes divide, whole in the main process: its weights during training,
and the model itself at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from accord.lm.adapters.stack import saved_form
from accord.lm.adapters.switch import POLICY, adapter_name
from accord.lm.model import LanguageModel
from accord.lm.saved_weights import SaveDtype, chosen_dtype
from accord.lm.sharding.shards import Sharded, is_divided, whole


@torch.no_grad()
def whole_weights(lm: LanguageModel, dtype: SaveDtype, *, is_main: bool) -> dict[str, Tensor]:
    """The state dict of a divided model, which remains divided: whole in the main process's CPU
    memory, in the dtype in which it is saved, and empty in the others. All processes call this
    together.

    Parameters are gathered one at a time, tied ones once; of a model with adapters the policy's
    adapter alone.
    """
    target = None if lm.is_peft else chosen_dtype(lm, dtype)
    weights: dict[str, Tensor] = {}
    gathered: dict[int, Tensor] = {}
    for name, tensor in lm.model.state_dict(keep_vars=True).items():
        if lm.is_peft and adapter_name(name) != POLICY:
            continue
        if id(tensor) not in gathered:
            full = whole(tensor)
            keeps = target is None or lm.stays_float32(name) or not full.is_floating_point()
            full = full.to(full.dtype if keeps else target)
            gathered[id(tensor)] = full.cpu() if is_main else torch.empty(0)
        weights[name] = gathered[id(tensor)]
    return weights if is_main else {}


@torch.no_grad()
def gather_to_main(models: Sequence[LanguageModel], dtype: SaveDtype, *, is_main: bool) -> None:
    """Make models plain again: whole on the CPU of the main process, to be saved there. The others
    keep their parts, and can't use them any more. All processes call this together.

    Parameters are gathered one at a time, in the dtype in which they are saved, so that no process
    ever holds a second copy. Of adapters on a base that a folder holds, they alone are gathered.
    """
    by_root: dict[int, list[LanguageModel]] = {}
    for lm in models:
        if lm.sharded is not None:
            by_root.setdefault(id(lm.sharded), []).append(lm)
    for views in by_root.values():
        sharded = views[0].sharded
        assert sharded is not None
        _gather(views, dtype, is_main=is_main)
        _remove_hooks(sharded)
        for lm in views:
            lm.sharded = None


def _gather(views: Sequence[LanguageModel], dtype: SaveDtype, *, is_main: bool) -> None:
    lm = views[0]
    adapters_only = lm.is_peft and not lm.unsaved and all(saved_form(v) != "full" for v in views)
    target = None if lm.is_peft else chosen_dtype(lm, dtype)
    of_adapters = {id(p) for n, p in lm.model.named_parameters() if adapter_name(n) is not None}
    done: dict[int, nn.Parameter] = {}
    for module in lm.inner.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None or not is_divided(parameter):
                continue
            if id(parameter) not in done:
                done[id(parameter)] = parameter
                if adapters_only and id(parameter) not in of_adapters:
                    continue
                full = whole(parameter)
                if is_main:
                    full = full.to("cpu", target or full.dtype)
                    done[id(parameter)] = nn.Parameter(full, parameter.requires_grad)
            module._parameters[name] = done[id(parameter)]


def _remove_hooks(sharded: Sharded) -> None:
    """Give the modules their own classes again, without the hooks that gather weights."""
    for module in sharded.modules:
        state = module._get_fsdp_state()
        state._pre_forward_hook_handle.remove()
        state._post_forward_hook_handle.remove()
        for group in state._fsdp_param_groups:
            for handles in (
                group._module_to_pre_save_state_dict_hook_handle,
                group._module_to_pre_load_state_dict_hook_handle,
            ):
                for handle in handles.values():
                    handle.remove()
        module.__class__ = type(module).__mro__[2]
    del sharded.root.accord_call
