# dicom-router as a container: the configuration is mounted at /etc/dicom-router, data is kept in /var/lib/dicom-router.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas ./schemas
COPY router ./router
RUN python -m venv /opt/dicom-router \
    && /opt/dicom-router/bin/pip install --no-cache-dir --constraint constraints.txt pip \
    && /opt/dicom-router/bin/pip install --no-cache-dir \
        --constraint constraints.txt --build-constraint constraints.txt ".[postgresql,decompression]"

FROM python:3.12-slim
RUN groupadd --system --gid 10001 dicom-router \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/dicom-router --no-create-home dicom-router \
    && install -d -o dicom-router -g dicom-router -m 0750 /var/lib/dicom-router
COPY --from=build /opt/dicom-router /opt/dicom-router
# DICOM_ROUTER_HEALTH: where the health check below asks; another port (router.http) or https:// (router.http_tls) go here.
ENV PATH=/opt/dicom-router/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DICOM_ROUTER_HEALTH=http://127.0.0.1:9104/healthz

# Relative paths of the configuration, as the default ./data/store, start here.
WORKDIR /var/lib/dicom-router
VOLUME /var/lib/dicom-router
USER 10001:10001

# Store SCP (router.listen), HTTP (router.http) and orders (router.hl7). HTTP has to listen on 0.0.0.0 to be reached from
# outside.
EXPOSE 11112 9104 2575
# Asked of this container itself, past any proxy, whoever its certificate is issued to.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as http; http.build_opener(http.ProxyHandler({}), http.HTTPSHandler(context=ssl._create_unverified_context())).open(os.environ['DICOM_ROUTER_HEALTH'], timeout=4)"]
# SIGTERM: after router.leave it drains: running moves may end (router.drain), receiving goes on until then.
STOPSIGNAL SIGTERM
CMD ["dicom-router", "run", "--config", "/etc/dicom-router"]
