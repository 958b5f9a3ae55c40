# For NVIDIA GPUs: docker build -f launch/docker/gpu.Dockerfile -t IMAGE .
# The driver (580 or newer, for CUDA 13) is the host's; CUDA itself comes with JAX's packages.
FROM python:3.11-slim-bookworm

WORKDIR /app
COPY . .
RUN pip install --no-cache-dir -c requirements/py311.txt '.[gcs]' 'jax[cuda13]>=0.10,<0.12'

# The NVIDIA container runtime shows the driver's libraries to images that ask for them.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

ENTRYPOINT ["python", "-m", "dmphn_jax.main"]
