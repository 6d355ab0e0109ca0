import pytorch_lightning as pl
import torch

from medvit.engine.module import FineTuner
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.optim.plan import Plan
from medvit.optim.strategy import Full
from medvit.task.binary import Binary
from medvit.types import Batch


def test_gradients_are_clipped_before_a_fused_step_in_mixed_precision(tmp_path):
    network = Network(ViT((8, 8), (4, 4), 1, 8, 1, 2), MeanPool(), 1)
    module = FineTuner(network, Binary("finding"), Full(), Plan(), 1.0, 0.0, 0)
    batch = Batch(torch.randn(2, 1, 8, 8), torch.ones(2, 1), torch.ones(2, 1), ("a", "b"), None)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", precision="bf16-mixed", gradient_clip_val=1e-3, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    norms = []
    module.optimizer_step = lambda epoch, index, optimizer, closure: (
        optimizer.step(closure),
        norms.append(torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()),
    )
    trainer.fit(module, torch.utils.data.DataLoader([batch], batch_size=None))
    assert module.optimizers().param_groups[0]["fused"]
    assert 0 < float(norms[0]) < 1.01e-3
