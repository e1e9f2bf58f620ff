# The MLflow server with its drivers: PostgreSQL for runs, S3 for what they keep (Google's: add google-cloud-storage).
#
#     docker build -f infra/docker/mlflow.Dockerfile -t animatediff-mlflow:0.1.0 infra/docker

# The mlflow of infra/pins.txt, which a check compares: server and jobs speak the same API.
ARG MLFLOW_VERSION=3.17.2
FROM ghcr.io/mlflow/mlflow:v${MLFLOW_VERSION}

RUN pip install --no-cache-dir 'psycopg[binary]==3.3.9' boto3==1.43.117 \
    && useradd --uid 1000 --create-home mlflow

USER 1000
WORKDIR /home/mlflow
