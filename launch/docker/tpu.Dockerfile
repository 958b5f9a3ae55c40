# For Cloud TPU under GKE: docker build -f launch/docker/tpu.Dockerfile -t IMAGE .
FROM python:3.11-slim-bookworm

WORKDIR /app
COPY . .
# The versions that are tested, and libtpu, which brings all that a TPU needs of software.
RUN pip install --no-cache-dir -c requirements/py311.txt '.[gcs]' 'jax[tpu]>=0.10,<0.12'

ENTRYPOINT ["python", "-m", "dmphn_jax.main"]
