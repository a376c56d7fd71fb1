"""accord brings a language model into accord with what people prefer, and proves that it did."""

__version__ = "0.1.0"
