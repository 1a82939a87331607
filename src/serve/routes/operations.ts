// What operators look at: metrics, the OpenAPI document and a page of it.
import { type OpenApi, renderDocs } from "../docs-page.ts";
import { answers } from "../schemas.ts";
import type { RouteContext } from "./context.ts";

export function operationRoutes({ app, metrics }: RouteContext): void {
  const tags = ["operations"];
  app.get(
    "/metrics",
    { schema: { tags, summary: "Metrics in Prometheus' text format", response: answers(null, "Them.", "text/plain") } },
    async (_, reply) => {
      const { body, type } = await metrics.text();
      return reply.header("content-type", type).send(body);
    },
  );
  app.get(
    "/openapi.json",
    {
      schema: {
        tags,
        summary: "This API as an OpenAPI 3 document",
        response: answers({ type: "object", additionalProperties: true }, "It."),
      },
    },
    async () => app.swagger(),
  );
  let page: string | undefined;
  app.get(
    "/docs",
    { schema: { tags, summary: "A page of it", response: answers(null, "It.", "text/html") } },
    async (_, reply) => {
      page ??= renderDocs(app.swagger() as unknown as OpenApi);
      return reply.header("content-type", "text/html; charset=utf-8").send(page);
    },
  );
}
