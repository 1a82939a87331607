"""A LoRA step on GPT-2's shape in PyTorch with transformers and PEFT: what bench/gpt2.js does, with the same options."""
import argparse
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

parser = argparse.ArgumentParser()
for name, value in [("layers", 12), ("vocabulary", 50257), ("batch", 4), ("tokens", 128), ("steps", 5), ("threads", 2)]:
    parser.add_argument(f"--{name}", type=int, default=value)
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.set_flush_denormal(True)
config = GPT2Config(n_layer=options.layers, vocab_size=options.vocabulary, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
lora = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True)
model = get_peft_model(GPT2LMHeadModel(config), lora)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
ids = torch.randint(0, options.vocabulary, (options.batch, options.tokens))
times = []
for index in range(options.steps):
    begun = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - begun)
    print(f"step {index + 1}: {times[-1]:.3f} s, loss {loss.item():.4f}")
times.sort()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"median {times[options.steps // 2]:.3f} s; peak memory {peak:.2f} GiB (PyTorch {torch.__version__})")
