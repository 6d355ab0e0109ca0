"""Networks made elsewhere as backbones: MONAI, timm, transformers, one's own, and bundles of the MONAI Model Zoo."""
