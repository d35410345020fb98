package io.vireo.examples;

import io.vireo.client.BatchSlates;
import io.vireo.client.VireoClient;
import io.vireo.client.VireoException;
import io.vireo.v1.BatchRecommendRequest;
import io.vireo.v1.EventKind;
import io.vireo.v1.ExplainVideoRequest;
import io.vireo.v1.RecommendRequest;
import io.vireo.v1.RecommendResponse;
import io.vireo.v1.RecordEventsRequest;
import io.vireo.v1.RemoveVideosRequest;
import io.vireo.v1.SimilarVideosRequest;
import io.vireo.v1.UpsertVideosRequest;
import io.vireo.v1.Video;
import java.io.IOException;

/**
 * Requests slates from a Vireo stack and prints each as JSON; before that it may record an event and change the
 * catalogue. It also asks for the videos like one, and why a video is on a page or isn't.
 */
public final class Recommend {

  private Recommend() {}

  public static void main(String[] arguments) {
    VireoClient client;
    Options options;
    try {
      options = Options.of(arguments);
      // One client serves any number of threads: a server creates one and reuses it.
      client = options.client();
    } catch (IllegalArgumentException | IllegalStateException | IOException wrong) {
      System.err.println("error: " + wrong.getMessage());
      System.exit(2);
      return;
    }
    int code = 0;
    try (client) {
      change(client, options);
      print(client, options);
    } catch (VireoException failed) {
      System.err.println(Output.explain(failed));
      code = 1;
    }
    System.exit(code);
  }

  private static void change(VireoClient client, Options options) {
    if (!options.upsert().isEmpty()) {
      Video video = Video.newBuilder().setVideoId(options.upsert()).setTitle(options.upsert()).build();
      client.upsertVideos(UpsertVideosRequest.newBuilder().addVideos(video).build());
    }
    if (!options.remove().isEmpty()) {
      client.removeVideos(RemoveVideosRequest.newBuilder().addVideoIds(options.remove()).build());
    }
    if (!options.played().isEmpty()) {
      RecordEventsRequest.Builder events = RecordEventsRequest.newBuilder();
      events.addEvents(VireoClient.newEvent(EventKind.EVENT_KIND_FINISH, options.viewer(), options.played()));
      client.recordEvents(events.build());
    }
  }

  private static void print(VireoClient client, Options options) {
    if (!options.similar().isEmpty()) {
      SimilarVideosRequest.Builder request =
          SimilarVideosRequest.newBuilder().setVideoId(options.similar()).setPageSize(options.pageSize());
      options.filter().ifPresent(request::setFilter);
      Output.print(Output.slate(client.similarVideos(request.build())));
    } else if (!options.why().isEmpty()) {
      ExplainVideoRequest.Builder request = ExplainVideoRequest.newBuilder().setVideoId(options.why());
      Output.print(Output.explanation(options.why(), client.explainVideo(request.setRequest(slate(options)).build())));
    } else if (options.viewers().size() > 1) {
      printBatch(client, options);
    } else {
      printPages(client, options);
    }
  }

  private static void printPages(VireoClient client, Options options) {
    int printed = 0;
    for (RecommendResponse page : client.pages(slate(options))) {
      Output.print(Output.slate(page));
      if (++printed == options.pages()) {
        break;
      }
    }
  }

  private static void printBatch(VireoClient client, Options options) {
    BatchRecommendRequest.Builder request =
        BatchRecommendRequest.newBuilder().addAllViewerIds(options.viewers()).setPageSize(options.pageSize());
    options.filter().ifPresent(request::setFilter);
    try (BatchSlates slates = client.batch(request.build())) {
      slates.forEachRemaining(each -> Output.print(Output.batchSlate(each)));
    }
  }

  private static RecommendRequest slate(Options options) {
    RecommendRequest.Builder request =
        RecommendRequest.newBuilder().setViewerId(options.viewer()).setPageSize(options.pageSize());
    options.filter().ifPresent(request::setFilter);
    return request.build();
  }
}
